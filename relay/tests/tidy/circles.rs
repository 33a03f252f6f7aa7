//! A rule about imports inside a folder: its parts do not import each other in a circle. A part is a file, or a folder
//! as a whole.
//!
//! A path through a `use` of a `mod.rs` counts as an import of the part that has the item. The `mod.rs` itself holds
//! its parts together, so it may import them and be imported by them; in [`STRICT`] folders it is a part like the
//! others.

use std::collections::{BTreeMap, BTreeSet};

use crate::Finding;
use crate::source::{PathUse, Source};

/// Folders whose circles are not broken yet.
const NOT_BROKEN_YET: &[&str] = &[
    "loadgen/src",
    "relay/src/io",
    "relay/src/session",
    "token/src",
    "wire/src/mux",
];

/// Folders whose `mod.rs` counts: the parts that it uses do not know it.
const STRICT: &[&str] = &[
    "relay/src/shard",
    "relay/src/shard/callers",
    "relay/src/shard/mail",
];

/// The part that a folder's own `mod.rs`, `lib.rs` or `main.rs` is.
const HEAD: &str = "mod";

/// Modules from a crate's root: the crate's folder, then one word for each module.
type Module = Vec<String>;

/// Imports between the parts of one folder: source and line of the first import from a part to another one.
type Imports<'a> = BTreeMap<String, BTreeMap<String, (&'a Source, usize)>>;

pub(crate) fn folders_have_no_circles(sources: &[Source]) -> Vec<Finding> {
    let sources = sources.iter().filter(|source| is_in_crate(source));
    let sources: Vec<_> = sources
        .map(|source| (source, module(source), source.paths()))
        .collect();
    let modules = sources.iter().flat_map(|(_, module, _)| {
        let above = (1..=module.len()).map(|depth| module[..depth].to_vec());
        above.collect::<Vec<_>>()
    });
    let modules: BTreeSet<Module> = modules.collect();
    let mut renamed = BTreeMap::new();
    for (_, own, paths) in &sources {
        for path in paths.iter().filter(|path| path.is_import) {
            if let (Some(target), Some(item)) = (target(path, own, &modules), path.segments.last())
            {
                let name: Module = own.iter().chain([item]).cloned().collect();
                renamed.insert(name, target);
            }
        }
    }
    let mut folders: BTreeMap<String, Imports<'_>> = BTreeMap::new();
    for (source, own, paths) in &sources {
        for path in paths.iter().filter(|path| !path.is_test) {
            let Some(target) = target(path, own, &modules) else {
                continue;
            };
            // `pub(in crate::shard)` names a folder above, and imports nothing.
            if !path.is_import && own.starts_with(&target) {
                continue;
            }
            let target = origin(target, &renamed, &modules);
            let same = own.iter().zip(&target).take_while(|(a, b)| a == b).count();
            let part = |module: &[String]| match modules.contains(module.get(..=same)?) {
                true => module.get(same).cloned(),
                false => None,
            };
            let head = || HEAD.to_owned();
            let (from, to) = (
                part(own).unwrap_or_else(head),
                part(&target).unwrap_or_else(head),
            );
            let folder = own[..same].join("/").replacen('/', "/src/", 1);
            let folder = match same {
                1 => format!("{folder}/src"),
                _ => folder,
            };
            let is_strict = STRICT.contains(&folder.as_str());
            if from != to && (is_strict || (from != HEAD && to != HEAD)) {
                let imports = folders.entry(folder).or_default().entry(from).or_default();
                imports.entry(to).or_insert((source, path.line));
            }
        }
    }
    let checked = folders
        .iter()
        .filter(|(folder, _)| !NOT_BROKEN_YET.contains(&folder.as_str()));
    checked
        .flat_map(|(folder, imports)| in_circles(folder, imports))
        .collect()
}

fn is_in_crate(source: &Source) -> bool {
    source.is_rust() && source.path.contains("/src/")
}

fn module(source: &Source) -> Module {
    let root = source.path.split('/').next().unwrap_or_default();
    [root.to_owned()]
        .into_iter()
        .chain(source.module())
        .collect()
}

/// The module or item of our crate that a path of the module `own` names.
fn target(path: &PathUse, own: &Module, modules: &BTreeSet<Module>) -> Option<Module> {
    if let Some(inside) = &path.in_crate {
        return Some(own[..1].iter().chain(inside).cloned().collect());
    }
    // A path such as `part::Item` starts in the module itself.
    let inside: Module = own.iter().chain(&path.segments).cloned().collect();
    let is_part = path.segments.len() > 1 && modules.contains(&inside[..=own.len()]);
    is_part.then_some(inside)
}

/// Where the item that `target` names is defined, as far as each `use` on the way is a plain one.
fn origin(
    mut target: Module,
    renamed: &BTreeMap<Module, Module>,
    modules: &BTreeSet<Module>,
) -> Module {
    // A name leads through a few folders at most; a limit, since two names may lead to each other.
    for _ in 0..8 {
        let names = (1..=target.len()).rev().map(|len| &target[..len]);
        let mut names = names.filter(|name| !modules.contains(*name));
        let Some((name, to)) = names.find_map(|name| Some((name, renamed.get(name)?))) else {
            break;
        };
        target = to.iter().chain(&target[name.len()..]).cloned().collect();
    }
    target
}

/// The imports of a folder that are part of a circle, or lie between two.
fn in_circles(folder: &str, imports: &Imports<'_>) -> Vec<Finding> {
    let mut left: BTreeSet<&str> = imports.keys().map(String::as_str).collect();
    loop {
        // Parts that import none of the others, or that none of them imports, are in no circle.
        let imports = |from: &str, to: &str| imports[from].contains_key(to);
        let has_two_sides = |part: &str| {
            left.iter().any(|other| imports(part, other))
                && left.iter().any(|other| imports(other, part))
        };
        let next = left.iter().copied().filter(|part| has_two_sides(part));
        let next: BTreeSet<&str> = next.collect();
        if next.len() == left.len() {
            break;
        }
        left = next;
    }
    let mut findings = Vec::new();
    for from in &left {
        for (to, (source, line)) in &imports[*from] {
            if left.contains(to.as_str()) {
                let what = format!("`{from}` imports `{to}`, in a circle of {folder}");
                findings.push(Finding::new(source, *line, what));
            }
        }
    }
    findings
}
