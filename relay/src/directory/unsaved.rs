//! Notes about changed names that wait for room in the state folder's queue, the latest note of each name only.

use indexmap::IndexMap;
use tieline_wire::TunnelId;

use crate::state::Note;

/// Notes that one shard keeps while the disk takes none: some 100 MiB.
const UNSAVED_MAX: usize = 256 * 1024;

/// The notes of one home shard.
#[derive(Default)]
pub(super) struct Unsaved(IndexMap<TunnelId, Box<Note>>);

impl Unsaved {
    /// Adds `notes`, and passes notes to `save` until it gives one back because it has no room. Returns the number of notes
    /// that were dropped, because too many wait.
    pub(super) fn keep(
        &mut self,
        notes: Vec<Note>,
        save: impl Fn(Box<Note>) -> Result<(), Box<Note>>,
    ) -> usize {
        let unsaved = &mut self.0;
        for note in notes.into_iter().map(Box::new) {
            match unsaved.get_mut(note.tunnel()) {
                Some(waiting) => *waiting = note,
                None => drop(unsaved.insert(note.tunnel().clone(), note)),
            }
        }
        while let Some((_, note)) = unsaved.pop() {
            if let Err(back) = save(note) {
                unsaved.insert(back.tunnel().clone(), back);
                break;
            }
        }
        let too_many = unsaved.len().saturating_sub(UNSAVED_MAX);
        unsaved.truncate(UNSAVED_MAX);
        too_many
    }
}
