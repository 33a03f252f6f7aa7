//! Which tunnel leads to which target of the agent, and which registration an answer is for.

use std::collections::HashMap;

use tieline_wire::TunnelId;

/// The tunnels of one link. A target is identified by its index in the agent's settings.
#[derive(Debug, Default)]
pub(super) struct Tunnels {
    /// Target of each tunnel, granted or asked for: a session may arrive before the relay's answer.
    targets: HashMap<TunnelId, usize>,
    /// Number of each target's latest registration, while it waits for an answer.
    asked: HashMap<usize, u32>,
    granted: HashMap<usize, TunnelId>,
    last_request: u32,
}

impl Tunnels {
    /// Sets the tunnels that will be asked for, in the order of their targets.
    pub(super) fn expect(&mut self, tunnels: &[TunnelId]) {
        self.targets = tunnels.iter().cloned().zip(0..).collect();
    }

    /// Number for a target's next registration; an answer to the previous number no longer counts.
    pub(super) fn ask(&mut self, target: usize) -> u32 {
        self.last_request += 1;
        self.asked.insert(target, self.last_request);
        self.last_request
    }

    /// The target that an answer is for; `None` if the answer no longer counts.
    pub(super) fn answered(&mut self, request: u32) -> Option<usize> {
        let mut asked = self.asked.iter();
        let target = asked.find_map(|(target, it)| (*it == request).then_some(*target))?;
        self.asked.remove(&target);
        Some(target)
    }

    pub(super) fn granted(&mut self, target: usize, tunnel: &TunnelId) {
        self.targets.insert(tunnel.clone(), target);
        self.granted.insert(target, tunnel.clone());
    }

    /// The target whose tunnel the relay takes back; `None` if the tunnel was not granted. A registration of the
    /// target may still wait for its answer.
    pub(super) fn withdrawn(&mut self, tunnel: &TunnelId) -> Option<usize> {
        let target = self.target_of(tunnel)?;
        self.granted.remove(&target).map(|_| target)
    }

    pub(super) fn target_of(&self, tunnel: &TunnelId) -> Option<usize> {
        self.targets.get(tunnel).copied()
    }

    /// The granted tunnels, which are to be given back.
    pub(super) fn take_granted(&mut self) -> Vec<TunnelId> {
        std::mem::take(&mut self.granted).into_values().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tunnel(name: &str) -> TunnelId {
        TunnelId::parse(name).unwrap()
    }

    #[test]
    fn an_answer_is_about_the_target_that_was_asked_for_last_with_its_number() {
        let mut tunnels = Tunnels::default();
        let (first, second) = (tunnels.ask(0), tunnels.ask(1));
        assert_eq!((first, second), (1, 2));
        assert_eq!(tunnels.answered(second), Some(1));
        assert_eq!(tunnels.answered(second), None);
        let again = tunnels.ask(0);
        assert_eq!(
            tunnels.answered(first),
            None,
            "a later registration replaced this one"
        );
        assert_eq!(tunnels.answered(again), Some(0));
    }

    #[test]
    fn a_tunnel_leads_to_its_target_before_and_after_it_is_granted() {
        let mut tunnels = Tunnels::default();
        tunnels.expect(&[tunnel("maya"), tunnel("comfy")]);
        assert_eq!(tunnels.target_of(&tunnel("comfy")), Some(1));
        assert_eq!(tunnels.target_of(&tunnel("nuke")), None);
        tunnels.granted(1, &tunnel("nuke"));
        assert_eq!(tunnels.target_of(&tunnel("nuke")), Some(1));
        assert_eq!(tunnels.take_granted(), [tunnel("nuke")]);
        assert!(tunnels.take_granted().is_empty());
    }

    #[test]
    fn a_tunnel_is_taken_back_once_and_what_is_asked_about_it_still_counts() {
        let mut tunnels = Tunnels::default();
        tunnels.expect(&[tunnel("maya"), tunnel("comfy")]);
        assert_eq!(
            tunnels.withdrawn(&tunnel("maya")),
            None,
            "the tunnel was not granted"
        );
        for (target, name) in [(0, "maya"), (1, "comfy")] {
            let asked = tunnels.ask(target);
            assert_eq!(tunnels.answered(asked), Some(target));
            tunnels.granted(target, &tunnel(name));
        }
        let renewal = tunnels.ask(0);
        assert_eq!(tunnels.withdrawn(&tunnel("maya")), Some(0));
        assert_eq!(tunnels.withdrawn(&tunnel("maya")), None);
        assert_eq!(tunnels.withdrawn(&tunnel("nuke")), None);
        assert_eq!(tunnels.answered(renewal), Some(0));
        // A session may arrive before the answer to the next registration.
        assert_eq!(tunnels.target_of(&tunnel("maya")), Some(0));
        assert_eq!(tunnels.take_granted(), [tunnel("comfy")]);
    }
}
