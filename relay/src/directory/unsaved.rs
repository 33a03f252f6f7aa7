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
    /// Adds `notes`, and passes notes to `save` until it gives one back because it has no room. Returns the number of
    /// notes that were dropped, because too many wait.
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

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};

    use super::*;

    fn forgotten(name: &str) -> Note {
        Note::Forgotten(TunnelId::parse(name).unwrap())
    }

    #[test]
    fn a_note_without_room_waits_until_there_is_room() {
        let mut unsaved = Unsaved::default();
        let (room, saved) = (Cell::new(1), RefCell::new(Vec::new()));
        let save = |note: Box<Note>| {
            if room.get() == 0 {
                return Err(note);
            }
            room.set(room.get() - 1);
            saved.borrow_mut().push(note.tunnel().as_str().to_owned());
            Ok(())
        };
        let notes = vec![forgotten("a"), forgotten("b"), forgotten("a")];
        assert_eq!(unsaved.keep(notes, save), 0);
        assert_eq!(*saved.borrow(), ["b"]);
        room.set(5);
        assert_eq!(unsaved.keep(Vec::new(), save), 0);
        assert_eq!(*saved.borrow(), ["b", "a"]);
    }
}
