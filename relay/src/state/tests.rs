use std::fs;
use std::os::unix::fs::PermissionsExt;

use tempfile::TempDir;
use tieline_wire::{AgentKey, MachineId, Scheme, TunnelId};

use super::*;

fn name(text: &str) -> TunnelId {
    TunnelId::parse(text).unwrap()
}

fn binding(tunnel: &str, sub: Option<&str>, key: u8) -> Binding {
    Binding {
        tunnel: name(tunnel),
        key: AgentKey::new([key; 32]),
        machine: MachineId::new([key; 16]),
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

fn take(folder: &TempDir) -> (State, Kept) {
    State::take(&Folder::open(folder.path()).unwrap(), 100).unwrap()
}

fn note(state: &State, note: Note) {
    state.book().note(Box::new(note)).unwrap();
}

fn names(kept: Kept) -> Vec<Binding> {
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
        note(&state, Note::Bound(it.clone()));
    }
    note(&state, Note::Bound(binding("gone", Some("eve"), 3)));
    note(&state, Note::Forgotten(name("gone")));
    drop(state);
    let (_state, second) = take(&folder);
    assert_eq!(second.seal_key, first.seal_key);
    assert!(second.epoch_seconds > first.epoch_seconds);
    assert_eq!(names(second), [ada, bob]);
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
    let refused = State::take(&it, 100).unwrap_err().to_string();
    let pid = std::process::id();
    assert!(
        refused.contains(&format!(
            "is in use by another tieline-relay (process {pid})"
        )),
        "{refused}"
    );
    note(&old, Note::Bound(binding("maya", Some("ada"), 1)));
    old.release();
    let (new, kept) = State::take(&it, 100).unwrap();
    assert_eq!(names(kept), [binding("maya", Some("ada"), 1)]);
    // What the old one decides while it drains is no longer its to keep.
    note(&old, Note::Forgotten(name("maya")));
    drop((old, new));
    assert_eq!(take(&folder).1.bindings.len(), 1);
}

#[test]
fn half_a_line_and_lines_of_later_versions_cost_nothing_else() {
    let folder = TempDir::new().unwrap();
    let (state, _) = take(&folder);
    note(&state, Note::Bound(binding("maya", Some("ada"), 1)));
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
    note(&state, Note::Bound(binding("after", None, 2)));
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
        Note::Bound(binding("maya", Some(&sub), 1)).write(&mut lines);
    }
    for _ in 0..4 {
        journal.add(&lines).unwrap();
        assert!(fs::metadata(&path).unwrap().len() < 10 * 1024 * 1024);
    }
    drop(journal);
    let (_, bindings) = Journal::open(&path, 100).unwrap();
    assert_eq!(bindings, [binding("maya", Some("ada-19999"), 1)]);
    assert!(fs::metadata(&path).unwrap().len() < 1000);
}

#[test]
fn no_more_names_are_read_than_the_relay_may_know() {
    let folder = TempDir::new().unwrap();
    let (state, _) = take(&folder);
    for n in 0..150 {
        note(&state, Note::Bound(binding(&format!("n{n}"), None, 1)));
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
    drop(State::take(&it, 1).unwrap());
    for file in [SEAL_FILE, EPOCH_FILE, NAMES_FILE] {
        let path = made.join(file);
        mode(&path, 0o640);
        let refused = State::take(&it, 1).unwrap_err().to_string();
        assert!(
            refused.contains(file) && refused.contains("chmod 600"),
            "{refused}"
        );
        fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", &path).unwrap();
        assert!(State::take(&it, 1).is_err());
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
    let refused = State::take(&it, 1).unwrap_err().to_string();
    assert!(
        refused.contains(SEAL_FILE) && refused.contains("remove it"),
        "{refused}"
    );
}
