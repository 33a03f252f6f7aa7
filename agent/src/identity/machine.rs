//! Identifies this machine, so that hosts that share a home directory can be told apart.

use std::path::Path;

use aws_lc_rs::digest;
use aws_lc_rs::rand::SystemRandom;
use tieline_wire::MachineId;

use super::{drawn, store};
use crate::error::IdentityError;

/// Id of the machine that the settings call `name`.
pub(super) fn named(name: &str) -> MachineId {
    hash("named", name)
}

/// Id of this machine: the system's id, or a random id kept in `state_dir` under the host's name.
pub(super) fn this_one(
    state_dir: &Path,
    random: &SystemRandom,
) -> Result<MachineId, IdentityError> {
    match of_system() {
        Some(id) => Ok(hash("system", &id)),
        None => kept(state_dir, &host_name(), random),
    }
}

/// Id of this host among those that share a state directory; a machine name in the settings does not change it.
pub(super) fn host() -> MachineId {
    hash(
        "host",
        &(of_system().unwrap_or_default() + "/" + &host_name()),
    )
}

// machine-id(5) asks to hash the id with a key of the application's own and never to publish it.
fn hash(kind: &str, id: &str) -> MachineId {
    let mut context = digest::Context::new(&digest::SHA256);
    for part in ["tieline machine 1", kind, id] {
        context.update(part.as_bytes());
        context.update(&[0]);
    }
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&context.finish().as_ref()[..16]);
    MachineId::new(bytes)
}

fn kept(state_dir: &Path, host: &str, random: &SystemRandom) -> Result<MachineId, IdentityError> {
    let host: String = host
        .chars()
        .take(64)
        .map(|c| if c.is_ascii_alphanumeric() { c } else { '-' })
        .collect();
    store::read_or_make(
        &state_dir.join(format!("machine-{host}")),
        || Ok(drawn::<16>(random)?.to_vec()),
        |bytes| <[u8; 16]>::try_from(bytes).ok().map(MachineId::new),
    )
}

#[cfg(any(target_os = "linux", target_os = "freebsd"))]
fn of_system() -> Option<String> {
    ["/etc/machine-id", "/var/lib/dbus/machine-id", "/etc/hostid"]
        .iter()
        .filter_map(|path| std::fs::read_to_string(path).ok())
        .find_map(|text| usable(&text))
}

#[cfg(target_os = "macos")]
fn of_system() -> Option<String> {
    let text = output_of("/usr/sbin/ioreg", &["-rd1", "-c", "IOPlatformExpertDevice"])?;
    let line = text.lines().find(|line| line.contains("IOPlatformUUID"))?;
    usable(line.rsplit('=').next()?.trim().trim_matches('"'))
}

#[cfg(windows)]
fn of_system() -> Option<String> {
    let text = output_of(
        "reg",
        &[
            "query",
            r"HKLM\SOFTWARE\Microsoft\Cryptography",
            "/v",
            "MachineGuid",
        ],
    )?;
    let line = text.lines().find(|line| line.contains("MachineGuid"))?;
    usable(line.split_whitespace().last()?)
}

#[cfg(not(any(
    target_os = "linux",
    target_os = "freebsd",
    target_os = "macos",
    windows
)))]
fn of_system() -> Option<String> {
    None
}

#[cfg(any(target_os = "macos", windows))]
fn output_of(program: &str, arguments: &[&str]) -> Option<String> {
    let output = std::process::Command::new(program)
        .args(arguments)
        .output()
        .ok()?;
    output
        .status
        .success()
        .then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The system's id, unless it is a placeholder: an image at its first boot has an empty id, or the word
/// `uninitialized` (machine-id(5)).
fn usable(text: &str) -> Option<String> {
    let text = text.trim().to_ascii_lowercase();
    let digits = text.chars().filter(char::is_ascii_hexdigit).count();
    let blank = text.chars().all(|c| c == '0' || c == '-');
    (digits >= 16 && !blank && !text.contains("uninitialized")).then_some(text)
}

/// The host's name, which tells apart hosts whose system has no id.
fn host_name() -> String {
    ["/proc/sys/kernel/hostname", "/etc/hostname"]
        .iter()
        .filter_map(|path| std::fs::read_to_string(path).ok())
        .chain(
            ["COMPUTERNAME", "HOSTNAME"]
                .iter()
                .filter_map(|name| std::env::var(name).ok()),
        )
        .map(|name| name.trim().to_owned())
        .find(|name| !name.is_empty())
        .unwrap_or_else(|| "host".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_or_unset_system_id_is_not_used() {
        assert_eq!(usable("\n"), None);
        assert_eq!(usable("uninitialized\n"), None);
        assert_eq!(usable("00000000-0000-0000-0000-000000000000"), None);
        assert_eq!(
            usable("B08DFA6083E7567A1921A715000001FB\n").as_deref(),
            Some("b08dfa6083e7567a1921a715000001fb")
        );
    }

    #[test]
    fn hosts_without_an_id_keep_one_each_in_a_shared_home() {
        let dir = tempfile::tempdir().unwrap();
        let random = SystemRandom::new();
        let one = kept(dir.path(), "node-01.farm", &random).unwrap();
        let two = kept(dir.path(), "node-02.farm", &random).unwrap();
        assert_ne!(one, two);
        assert_eq!(one, kept(dir.path(), "node-01.farm", &random).unwrap());
    }

    #[test]
    fn a_name_is_no_system_id() {
        assert_ne!(named("x"), hash("system", "x"));
    }
}
