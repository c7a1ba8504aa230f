//! Association groups: connections of one client that may share context handles ([MS-RPCE] 3.3.1.5.7).

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

/// The groups of one server. Each lives as long as a [`Membership`] of it; their number is bounded by that of
/// the connections.
#[derive(Debug, Default)]
pub struct AssociationGroups {
    state: Mutex<Groups>,
}

#[derive(Debug, Default)]
struct Groups {
    last_id: u32,
    members: HashMap<u32, (IpAddr, usize)>,
}

impl AssociationGroups {
    /// Opens a new group when `requested` is 0; otherwise joins that one, if it exists and is of this client.
    pub fn join(self: &Arc<Self>, requested: u32, client: IpAddr) -> Option<Membership> {
        let mut groups = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let id = match requested {
            0 => {
                let mut id = groups.last_id;
                loop {
                    id = id.wrapping_add(1);
                    if id != 0 && !groups.members.contains_key(&id) {
                        break;
                    }
                }
                groups.last_id = id;
                groups.members.insert(id, (client, 1));
                id
            }
            id => {
                let (owner, count) = groups.members.get_mut(&id)?;
                if *owner != client {
                    return None;
                }
                *count += 1;
                id
            }
        };
        Some(Membership { groups: Arc::clone(self), id })
    }
}

/// One connection's part in a group; leaves it when dropped.
#[derive(Debug)]
pub struct Membership {
    groups: Arc<AssociationGroups>,
    id: u32,
}

impl Membership {
    /// `assoc_group_id`, never 0.
    pub const fn id(&self) -> u32 {
        self.id
    }
}

impl Drop for Membership {
    fn drop(&mut self) {
        let mut groups = self.groups.state.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, count)) = groups.members.get_mut(&self.id) {
            *count -= 1;
            if *count == 0 {
                groups.members.remove(&self.id);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_is_joined_by_its_own_client_while_it_lives() {
        let groups = Arc::new(AssociationGroups::default());
        let (here, there) = ([127, 0, 0, 1].into(), [127, 0, 0, 2].into());
        let first = groups.join(0, here).expect("a new group");
        let second = groups.join(first.id(), here).expect("the same group");
        assert_eq!(first.id(), second.id());
        assert!(groups.join(first.id(), there).is_none());
        let id = first.id();
        drop(first);
        assert!(groups.join(id, here).is_some());
        drop(second);
        assert!(groups.join(id, here).is_none());
        assert_ne!(groups.join(0, here).expect("a new group").id(), id);
    }
}
