use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use tempfile::TempDir;
use tieline_wire::{AgentKey, InstanceId, MachineId, Scheme, TunnelId};

use super::*;

fn name(text: &str) -> TunnelId {
    TunnelId::parse(text).unwrap()
}

fn binding(tunnel: &str, sub: Option<&str>, key: u8) -> Binding {
    Binding {
        tunnel: name(tunnel),
        key: AgentKey::new([key; 32]),
        machine: MachineId::new([key; 16]),
        instance: Some(InstanceId::new([key; 16])),
        superseded: vec![InstanceId::new([8; 16]), InstanceId::new([9; 16])],
        sub: sub.map(str::to_owned),
        groups: vec!["fx".to_owned()],
        shared: true,
        scheme: Scheme::Https,
        base_path: "/mcp".to_owned(),
        dcc: "maya".to_owned(),
        capabilities: vec!["gpu".to_owned()],
        expose_all: true,
        away_since: Some(1_800_000_000),
    }
}

fn take(folder: &TempDir) -> (State, StoredState) {
    State::take(&Folder::open(folder.path()).unwrap(), None, 100).unwrap()
}

fn note(state: &State, note: Note) {
    state.book().note(Box::new(note)).unwrap();
}

fn names(kept: StoredState) -> Vec<Binding> {
    let mut all = kept.bindings;
    all.sort_by(|one, other| one.tunnel.cmp(&other.tunnel));
    all
}

#[test]
fn what_was_noted_is_there_at_the_next_start() {
    let folder = TempDir::new().unwrap();
    let (state, first) = take(&folder);
    assert!(first.bindings.is_empty());
    let (ada, bob) = (binding("maya", Some("ada"), 1), binding("nuke", None, 2));
    for it in [&ada, &bob] {
        note(&state, Note::bound(it.clone()));
    }
    note(&state, Note::bound(binding("gone", Some("eve"), 3)));
    note(&state, Note::Forgotten(name("gone")));
    drop(state);
    let (_state, second) = take(&folder);
    assert_eq!(second.seal_key, first.seal_key);
    assert_eq!(second.quic_key, first.quic_key);
    assert_ne!(first.quic_key, first.seal_key);
    assert!(second.epoch_seconds > first.epoch_seconds);
    assert_eq!(names(second), [ada, bob]);
}

#[test]
fn a_line_of_the_journal_names_each_scheme_of_a_target() {
    for (scheme, word) in [
        (Scheme::Tcp, "tcp"),
        (Scheme::Http, "http"),
        (Scheme::Https, "https"),
        (Scheme::Stdio, "stdio"),
    ] {
        let bound = Note::bound(Binding {
            scheme,
            ..binding("maya", Some("ada"), 1)
        });
        let mut line = Vec::new();
        bound.write(&mut line);
        let text = String::from_utf8(line.clone()).unwrap();
        assert!(text.contains(&format!(r#""scheme":"{word}""#)), "{text}");
        assert_eq!(Note::read(&line), Some(bound));
    }
}

#[test]
fn the_number_of_a_start_rises_though_the_clock_goes_back() {
    let folder = TempDir::new().unwrap();
    let ahead = now_seconds() + 1000;
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o700)).unwrap();
    let it = Folder::open(folder.path()).unwrap();
    it.replace(EPOCH_FILE, format!("{ahead}").as_bytes())
        .unwrap();
    for later in 1..4 {
        assert_eq!(take(&folder).1.epoch_seconds, ahead + later);
    }
    it.replace(EPOCH_FILE, b"what?").unwrap();
    assert!(take(&folder).1.epoch_seconds < ahead);
}

#[test]
fn one_relay_has_the_folder_at_a_time_and_hands_all_of_it_over() {
    let folder = TempDir::new().unwrap();
    let (mut old, _) = take(&folder);
    let it = Folder::open(folder.path()).unwrap();
    let refused = State::take(&it, None, 100).unwrap_err().to_string();
    let pid = std::process::id();
    assert!(
        refused.contains(&format!(
            "is in use by another tieline-relay (process {pid})"
        )),
        "{refused}"
    );
    note(&old, Note::bound(binding("maya", Some("ada"), 1)));
    old.release();
    let (new, kept) = State::take(&it, None, 100).unwrap();
    assert_eq!(names(kept), [binding("maya", Some("ada"), 1)]);
    // Notes of the old relay while it drains are dropped.
    note(&old, Note::Forgotten(name("maya")));
    drop((old, new));
    assert_eq!(take(&folder).1.bindings.len(), 1);
}

/// Makes every replacement of the file fail, even for root.
fn block(folder: &TempDir, file: &str) {
    fs::create_dir(folder.path().join(format!("{file}.new"))).unwrap();
}

#[test]
fn a_relay_whose_successor_fails_goes_on_with_the_folder_that_it_lent() {
    let folder = TempDir::new().unwrap();
    let (mut old, _) = take(&folder);
    note(&old, Note::bound(binding("before", Some("ada"), 1)));
    let it = Folder::open(folder.path()).unwrap();
    block(&folder, EPOCH_FILE);
    block(&folder, NAMES_FILE);
    for name in ["one", "two"] {
        let lock = old.lend().unwrap();
        note(&old, Note::bound(binding(name, Some("ada"), 1)));
        let failed = State::take(&it, Some(lock), 100).unwrap_err().to_string();
        assert!(failed.contains(EPOCH_FILE), "{failed}");
        // A third relay does not get the folder in between.
        let refused = State::take(&it, None, 100).unwrap_err().to_string();
        assert!(refused.contains("is in use"), "{refused}");
        old.go_on();
        assert!(State::take(&it, None, 100).is_err());
    }
    note(&old, Note::bound(binding("after", Some("ada"), 1)));
    drop(old);
    for file in [EPOCH_FILE, NAMES_FILE] {
        fs::remove_dir(folder.path().join(format!("{file}.new"))).unwrap();
    }
    let found: Vec<_> = names(take(&folder).1)
        .iter()
        .map(|it| it.tunnel.to_string())
        .collect();
    assert_eq!(found, ["after", "before", "one", "two"]);
}

#[test]
fn a_folder_that_was_lent_is_written_by_the_one_that_goes_on() {
    let folder = TempDir::new().unwrap();
    let (mut old, _) = take(&folder);
    note(&old, Note::bound(binding("before", Some("ada"), 1)));
    let it = Folder::open(folder.path()).unwrap();
    let path = folder.path().join(NAMES_FILE);
    // The first successor ends before it goes on.
    let (failed, _) = State::take(&it, Some(old.lend().unwrap()), 100).unwrap();
    let before = fs::read(&path).unwrap();
    note(&failed, Note::Forgotten(name("before")));
    drop(failed);
    assert_eq!(fs::read(&path).unwrap(), before);
    old.go_on();
    let (mut new, kept) = State::take(&it, Some(old.lend().unwrap()), 100).unwrap();
    assert_eq!(kept.bindings.len(), 1);
    new.go_on();
    note(&old, Note::bound(binding("late", Some("ada"), 1)));
    note(&new, Note::bound(binding("after", Some("ada"), 1)));
    drop(old);
    let refused = State::take(&it, None, 100).unwrap_err().to_string();
    assert!(refused.contains("is in use"), "{refused}");
    drop(new);
    let found: Vec<_> = names(take(&folder).1)
        .iter()
        .map(|it| it.tunnel.to_string())
        .collect();
    assert_eq!(found, ["after", "before"]);
}

#[test]
fn what_an_operator_decided_holds_at_the_next_start_until_its_time_is_over() {
    let folder = TempDir::new().unwrap();
    let now = now_seconds();
    let revoked = [
        Denied::Subject("eve".to_owned()),
        Denied::Number("5f0c".to_owned()),
        Denied::Key(vec![0x8f; 6]),
    ];
    let (state, _) = take(&folder);
    let book = state.book();
    for it in ["maya", "nuke"] {
        book.decide(Decision::Paused(name(it)));
    }
    book.decide(Decision::Resumed(name("nuke")));
    for (denied, later) in revoked.iter().zip([3000, 1000, 2000]) {
        book.decide(Decision::Revoked(denied.clone(), now + later));
    }
    book.decide(Decision::Revoked(Denied::Subject("bob".to_owned()), now));
    drop((book, state));
    // The decisions are also there after rewrites of the journal.
    for _ in 0..3 {
        let (_state, kept) = take(&folder);
        assert_eq!(kept.paused, HashSet::from([name("maya")]));
        let [eve, number, key] = revoked.clone();
        let all = [(number, now + 1000), (key, now + 2000), (eve, now + 3000)];
        assert_eq!(kept.revoked, all);
    }
}

#[test]
fn half_a_line_and_lines_of_later_versions_cost_nothing_else() {
    let folder = TempDir::new().unwrap();
    let (state, _) = take(&folder);
    note(&state, Note::bound(binding("maya", Some("ada"), 1)));
    drop(state);
    let path = folder.path().join(NAMES_FILE);
    let mut text = fs::read_to_string(&path).unwrap();
    let later = text
        .replace("maya\"", "nuke\"")
        .replace('{', r#"{"colour":{"a":[1]},"#);
    let torn = text.replace("maya\"", "torn\"");
    text += &later;
    text += "no JSON\n\n{}\n";
    text += &torn[..torn.len() - 9];
    fs::write(&path, &text).unwrap();
    let (state, kept) = take(&folder);
    let found: Vec<_> = names(kept).iter().map(|it| it.tunnel.to_string()).collect();
    assert_eq!(found, ["maya", "nuke"]);
    note(&state, Note::bound(binding("after", None, 2)));
    drop(state);
    assert_eq!(take(&folder).1.bindings.len(), 3);
}

#[test]
fn the_journal_is_written_anew_before_it_grows_without_end() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join(NAMES_FILE);
    let (mut journal, _) = Journal::open(&path, 100).unwrap();
    let mut lines = Vec::new();
    for n in 0..20_000 {
        let sub = format!("ada-{n}");
        Note::bound(binding("maya", Some(&sub), 1)).write(&mut lines);
    }
    for _ in 0..4 {
        journal.add(&lines).unwrap();
        assert!(fs::metadata(&path).unwrap().len() < 10 * 1024 * 1024);
    }
    drop(journal);
    let (_, content) = Journal::open(&path, 100).unwrap();
    let bindings: Vec<_> = content.bindings.into_values().collect();
    assert_eq!(bindings, [binding("maya", Some("ada-19999"), 1)]);
    assert!(fs::metadata(&path).unwrap().len() < 1000);
}

#[test]
fn no_more_names_are_read_than_the_relay_may_know() {
    let folder = TempDir::new().unwrap();
    let (state, _) = take(&folder);
    for n in 0..150 {
        note(&state, Note::bound(binding(&format!("n{n}"), None, 1)));
    }
    drop(state);
    assert_eq!(take(&folder).1.bindings.len(), 100);
}

#[test]
fn a_folder_or_file_that_others_can_change_is_refused_with_the_remedy() {
    let folder = TempDir::new().unwrap();
    let mode = |path: &Path, mode| {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    };
    let made = folder.path().join("a/b");
    Folder::open(&made).unwrap();
    let made_mode = fs::metadata(&made).unwrap().permissions().mode();
    assert_eq!(made_mode & 0o777, 0o700);
    for wrong in [0o720, 0o702, 0o777] {
        mode(&made, wrong);
        let refused = Folder::open(&made).unwrap_err();
        assert_eq!(refused.exit_code(), crate::error::EXIT_USAGE);
        assert!(refused.to_string().contains("chmod 700"), "{refused}");
    }
    mode(&made, 0o750);
    let it = Folder::open(&made).unwrap();
    drop(State::take(&it, None, 1).unwrap());
    for file in [SEAL_FILE, QUIC_FILE, EPOCH_FILE, NAMES_FILE] {
        let path = made.join(file);
        mode(&path, 0o640);
        let refused = State::take(&it, None, 1).unwrap_err().to_string();
        assert!(
            refused.contains(file) && refused.contains("chmod 600"),
            "{refused}"
        );
        fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", &path).unwrap();
        assert!(State::take(&it, None, 1).is_err());
        fs::remove_file(&path).unwrap();
    }
    let file = folder.path().join("file");
    fs::write(&file, "").unwrap();
    assert!(Folder::open(&file).is_err());
}

#[test]
fn a_damaged_key_is_named_and_not_replaced_in_silence() {
    let folder = TempDir::new().unwrap();
    drop(take(&folder));
    let it = Folder::open(folder.path()).unwrap();
    it.replace(SEAL_FILE, b"short").unwrap();
    let refused = State::take(&it, None, 1).unwrap_err().to_string();
    assert!(
        refused.contains(SEAL_FILE) && refused.contains("remove it"),
        "{refused}"
    );
}

#[test]
fn a_decision_finds_room_although_notes_fill_their_part_of_the_queue() {
    let folder = TempDir::new().unwrap();
    let (mut old, _) = take(&folder);
    // The writer of a lent folder writes nothing yet, as if the disk hung.
    let it = Folder::open(folder.path()).unwrap();
    let (mut new, _) = State::take(&it, Some(old.lend().unwrap()), 100).unwrap();
    let book = new.book();
    while book.note(Box::new(Note::Forgotten(name("maya")))).is_ok() {}
    book.decide(Decision::Paused(name("nuke")));
    drop(old);
    new.go_on();
    drop((book, new));
    let (_state, kept) = take(&folder);
    assert_eq!(kept.paused, HashSet::from([name("nuke")]));
}

#[test]
fn notes_after_the_release_of_the_folder_are_dropped_in_any_number() {
    let folder = TempDir::new().unwrap();
    let (state, _) = take(&folder);
    let book = state.book();
    drop(state);
    let note = || Box::new(Note::Forgotten(name("maya")));
    // The writer's thread ends just after the release.
    while book.note(note()).is_err() || book.0.as_ref().unwrap().notes_waiting.load(Relaxed) != OVER
    {
        std::thread::yield_now();
    }
    assert!((0..2 * NOTES_MAX).all(|_| book.note(note()).is_ok()));
}
