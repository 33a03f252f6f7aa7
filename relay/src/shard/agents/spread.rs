//! Which shard a link lives on after its hello, for an agent with several links.

use std::hash::{DefaultHasher, Hash, Hasher};

use tieline_wire::AgentHello;

/// The shard of one of an agent's several links; `None` if the agent has one link. The links go round the shards,
/// so that a busy agent uses as many cores as links. A hash of the agent selects the shard of its first link.
pub(super) fn shard_of(hello: &AgentHello, shards: usize) -> Option<usize> {
    if hello.links < 2 {
        return None;
    }
    let mut hasher = DefaultHasher::new();
    (hello.key, hello.instance).hash(&mut hasher);
    let place = hasher.finish().wrapping_add(u64::from(hello.link_index));
    // The remainder is below `shards`, a usize.
    usize::try_from(place % shards as u64).ok()
}

#[cfg(test)]
mod tests {
    use tieline_wire::{InstanceId, MachineId};

    use super::*;

    fn hello(instance: u8, link_index: u16, links: u16) -> AgentHello {
        AgentHello {
            instance: InstanceId::new([instance; 16]),
            machine: MachineId::new([0; 16]),
            link_index,
            links,
            ..crate::session::tests::rig::agent_hello()
        }
    }

    #[test]
    fn links_of_one_agent_go_round_the_shards_and_agents_begin_anywhere() {
        let mut first = [0; 4];
        for instance in 0..100 {
            let place = |index| shard_of(&hello(instance, index, 6), 4).unwrap();
            for index in 0..5 {
                assert_eq!((place(index) + 1) % 4, place(index + 1));
            }
            first[place(0)] += 1;
        }
        assert!(first.iter().all(|count| *count > 5), "{first:?}");
        assert_eq!(shard_of(&hello(0, 0, 1), 4), None);
    }
}
