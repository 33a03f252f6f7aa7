//! Owners of names without an agent, each stored once: a token's groups may be longer than the rest of what is kept of
//! a name.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::auth::Owner;

/// Number of recent owners that are kept for reuse.
const RECENT_MAX: usize = 32;

/// The most recently used owners, the latest one last.
#[derive(Default)]
pub(crate) struct Owners(VecDeque<Arc<Owner>>);

impl Owners {
    /// The owner with this name and these groups; the stored one if it was used recently.
    pub(crate) fn find(&mut self, sub: &str, groups: &[String]) -> Arc<Owner> {
        let is_it = |it: &Arc<Owner>| it.sub == sub && it.groups == groups;
        let found = match self.0.iter().position(is_it) {
            Some(place) => self.0.remove(place),
            None => None,
        };
        let owner = found.unwrap_or_else(|| {
            Arc::new(Owner {
                sub: sub.to_owned(),
                groups: groups.to_vec(),
            })
        });
        self.0.push_back(Arc::clone(&owner));
        if self.0.len() > RECENT_MAX {
            self.0.pop_front();
        }
        owner
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_owner_is_kept_once_beside_others() {
        let mut owners = Owners::default();
        let groups = vec!["fx".to_owned()];
        let ada = owners.find("ada", &groups);
        let eve = owners.find("eve", &groups);
        assert!(Arc::ptr_eq(&ada, &owners.find("ada", &groups)));
        assert!(!Arc::ptr_eq(&ada, &owners.find("ada", &[])));
        for n in 0..RECENT_MAX {
            owners.find(&format!("sub-{n}"), &[]);
        }
        assert!(!Arc::ptr_eq(&eve, &owners.find("eve", &groups)));
    }
}
