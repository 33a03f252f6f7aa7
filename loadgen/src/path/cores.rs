//! Assignment of CPU cores to the processes of a run.

use crate::machine::usable_cores;
use crate::process::pin_to;

/// Cores of target and hops, when processes are pinned.
#[derive(Clone, Debug)]
pub(super) struct Cores {
    pub(super) target: Vec<usize>,
    pub(super) near: usize,
    pub(super) far: usize,
}

/// Pins this process to the client's cores and returns the others; `None`, and no pinning, below four cores.
pub(super) fn pin_client() -> anyhow::Result<Option<Cores>> {
    let Some((client, cores)) = deal(&usable_cores()) else {
        return Ok(None);
    };
    pin_to(&client)?;
    Ok(Some(cores))
}

/// Splits the cores into the client's and the others; `None` if there are fewer than four. Client and
/// target have two threads in the mixed scenario, so they get two cores each if there are six.
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
