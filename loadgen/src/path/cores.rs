//! Which cores the processes of a run get.

use crate::machine::usable_cores;
use crate::process::pin_to;

/// The cores of the other roles, when processes are pinned.
#[derive(Clone, Debug)]
pub(super) struct Cores {
    pub(super) target: Vec<usize>,
    pub(super) near: usize,
    pub(super) far: usize,
}

/// Gives each role cores of its own where there are enough, and puts this process on the first.
pub(super) fn pin_client() -> anyhow::Result<Option<Cores>> {
    let Some((client, cores)) = deal(&usable_cores()) else {
        return Ok(None);
    };
    pin_to(&client)?;
    Ok(Some(cores))
}

/// The client's cores, and those of the others; none if there are fewer than four. Client and target
/// have two threads in the mixed load, so they get two each as soon as there are six.
fn deal(usable: &[usize]) -> Option<(Vec<usize>, Cores)> {
    let (client, target, near, far) = match *usable {
        [a, b, c, d, near, far, ..] => (vec![a, b], vec![c, d], near, far),
        [client, target, near, far, ..] => (vec![client], vec![target], near, far),
        _ => return None,
    };
    Some((client, Cores { target, near, far }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cores_are_dealt_where_there_are_four() {
        assert!(deal(&[0, 1, 2]).is_none());
        let (client, cores) = deal(&[0, 1, 2, 3, 4]).unwrap();
        assert_eq!(
            (client, cores.target, cores.near, cores.far),
            (vec![0], vec![1], 2, 3)
        );
        let (client, cores) = deal(&[0, 1, 2, 3, 6, 7]).unwrap();
        assert_eq!((client, cores.target), (vec![0, 1], vec![2, 3]));
        assert_eq!((cores.near, cores.far), (6, 7));
    }
}
