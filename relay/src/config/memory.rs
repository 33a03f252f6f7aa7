//! Memory that the relay may use: the machine's, or less if a cgroup limits it. The default budgets are
//! derived from it.

use std::fs;
use std::path::{Path, PathBuf};

use tracing::{info, warn};

use super::{Config, SHARD_BUDGET_BYTES, SHARD_BUDGET_BYTES_MIN};

/// Divisor of the memory for the default budgets of all shards, both directions together. The other half
/// is for the program, for each connection's own buffers, and for the kernel's buffers, which a cgroup
/// counts too.
const BUDGETS_PART: u64 = 2;

/// Divisor of a shard's budget for the windows of its callers over QUIC, in each direction.
pub(crate) const QUIC_WINDOWS_PART: u64 = 2;

/// Divisor of the memory for the unsent bytes of one connection that the kernel may hold.
const NOTSENT_PART: u64 = 4096;

/// Bounds of the unsent bytes per connection: a smaller bound would need a system call per small write,
/// a larger one makes bulk transfers no faster.
const NOTSENT_BYTES_MIN: u64 = 16 * 1024;
const NOTSENT_BYTES_MAX: u64 = 1024 * 1024;

/// Memory that this process may use, in bytes, if the system tells.
pub(super) fn limit() -> Option<u64> {
    limit_by(|path| fs::read_to_string(path).ok())
}

/// Default of `shard_budget_bytes`; `has_quic` tells whether callers may come over QUIC.
pub(super) fn shard_budget(limit: Option<u64>, shards: usize, has_quic: bool) -> u64 {
    let budgets = budgets(shards, has_quic);
    let share = limit.map_or(u64::MAX, |limit| limit / BUDGETS_PART / budgets);
    share.clamp(SHARD_BUDGET_BYTES_MIN, SHARD_BUDGET_BYTES)
}

/// Number of times that peers can fill `shard_budget_bytes`: on each shard in both directions, and with the windows of its
/// callers over QUIC.
fn budgets(shards: usize, has_quic: bool) -> u64 {
    let shards = u64::try_from(shards.max(1)).unwrap_or(u64::MAX);
    let directions = shards.saturating_mul(2);
    let windows = match has_quic {
        true => directions / QUIC_WINDOWS_PART,
        false => 0,
    };
    directions.saturating_add(windows)
}

impl Config {
    /// Unsent bytes that the kernel may hold for one caller that reads slowly.
    pub(crate) fn notsent_bytes(&self) -> u32 {
        notsent(self.memory_limit_bytes)
    }

    /// Logs the memory limit and the shard budget; warns if the budgets of all shards exceed half of the limit.
    pub(crate) fn say_memory(&self) {
        let shard_budget_bytes = self.shard_budget_bytes;
        let Some(limit) = self.memory_limit_bytes else {
            return info!(shard_budget_bytes, "memory has no known limit");
        };
        info!(memory_limit_bytes = limit, shard_budget_bytes, "memory");
        let (bytes, budgets) = (self.buffered_bytes_max(), self.budgets());
        if bytes > limit / BUDGETS_PART {
            warn!(
                "peers can make the relay buffer {bytes} bytes ({budgets} x shard_budget_bytes, for all shards) of its \
                 {limit} bytes of memory: lower `shard_budget_bytes` or `shards`, or the kernel may kill the relay"
            );
        }
    }

    /// Bytes that peers can make the relay buffer within the budgets of all shards.
    fn buffered_bytes_max(&self) -> u64 {
        self.shard_budget_bytes.saturating_mul(self.budgets())
    }

    fn budgets(&self) -> u64 {
        budgets(self.shards, !self.quic_listen.is_empty())
    }
}

/// Unsent bytes that the kernel may hold for one peer that reads slowly.
fn notsent(limit: Option<u64>) -> u32 {
    let part = limit.map_or(u64::MAX, |limit| limit / NOTSENT_PART);
    let bytes = part.clamp(NOTSENT_BYTES_MIN, NOTSENT_BYTES_MAX);
    u32::try_from(bytes).unwrap_or(u32::MAX)
}

/// Smallest memory limit in the system's files, which `read` reads.
fn limit_by(read: impl Fn(&Path) -> Option<String>) -> Option<u64> {
    let machine = read(Path::new("/proc/meminfo")).and_then(|text| total(&text));
    let groups = read(Path::new("/proc/self/cgroup")).unwrap_or_default();
    let mounts = read(Path::new("/proc/self/mountinfo")).unwrap_or_default();
    let of_groups = hierarchies(&groups, &mounts)
        .into_iter()
        .flat_map(|hierarchy| hierarchy.limits(&read));
    machine.into_iter().chain(of_groups).min()
}

/// `MemTotal` of `/proc/meminfo` (proc_meminfo(5)), in bytes.
fn total(meminfo: &str) -> Option<u64> {
    let line = meminfo
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

/// Place of this process in one tree of cgroups.
#[derive(Debug, PartialEq, Eq)]
struct Hierarchy {
    mount: PathBuf,
    /// Path of the process's group, relative to the mount.
    below: PathBuf,
    files: &'static [&'static str],
}

impl Hierarchy {
    /// Limits of the process's group and of each group above it.
    fn limits(&self, read: &impl Fn(&Path) -> Option<String>) -> Vec<u64> {
        let groups = self.below.ancestors().map(|group| self.mount.join(group));
        let paths = groups.flat_map(|group| self.files.iter().map(move |file| group.join(file)));
        // "No limit" is the word `max` in version 2, and a number beyond any machine's memory in version 1.
        let limits = paths.filter_map(|path| read(&path)?.trim().parse::<u64>().ok());
        limits.filter(|limit| *limit > 0).collect()
    }
}

/// The cgroup trees that limit memory, from `/proc/self/cgroup` and `/proc/self/mountinfo` (cgroups(7),
/// proc_pid_mountinfo(5)).
fn hierarchies(groups: &str, mounts: &str) -> Vec<Hierarchy> {
    let mut found = Vec::new();
    for line in groups.lines() {
        let mut fields = line.splitn(3, ':');
        let (Some(id), Some(controllers), Some(group)) =
            (fields.next(), fields.next(), fields.next())
        else {
            continue;
        };
        let is_unified = id == "0" && controllers.is_empty();
        let counts_memory = controllers.split(',').any(|name| name == "memory");
        if !is_unified && !counts_memory {
            continue;
        }
        // Above `memory.high` the kernel throttles a program until it frees memory.
        let files: &[_] = if is_unified {
            &["memory.max", "memory.high"]
        } else {
            &["memory.limit_in_bytes"]
        };
        let at = mounts.lines().filter_map(|line| mount(line, is_unified));
        found.extend(at.filter_map(|(root, mount)| {
            // In a container the mount's root may be the process's own group, at its path outside.
            let group = Path::new(group);
            let below = group.strip_prefix(root).ok()?;
            Some(Hierarchy {
                mount: PathBuf::from(mount),
                below: below.strip_prefix("/").unwrap_or(below).to_owned(),
                files,
            })
        }));
    }
    found
}

/// Root and mount point in a line of `mountinfo`, if the mount is a cgroup tree that limits memory.
fn mount(line: &str, is_unified: bool) -> Option<(&str, &str)> {
    let (before, after) = line.split_once(" - ")?;
    let mut before = before.split(' ').skip(3);
    let (root, mount) = (before.next()?, before.next()?);
    let mut after = after.split(' ');
    let kind = after.next()?;
    let fits = if is_unified {
        kind == "cgroup2"
    } else {
        let options = after.nth(1).unwrap_or_default();
        kind == "cgroup" && options.split(',').any(|option| option == "memory")
    };
    fits.then_some((root, mount))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1024 * 1024;
    const GIB: u64 = 1024 * MIB;

    const MEMINFO: &str = "MemTotal:       16777216 kB\nMemFree:         1000 kB\n";
    const V2: &str = "29 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw\n";
    const V1: &str = "31 23 0:27 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu,cpuacct\n\
                      33 23 0:29 / /sys/fs/cgroup/memory rw shared:9 - cgroup cgroup rw,memory\n";

    fn limit_of(files: &[(&str, &str)]) -> Option<u64> {
        limit_by(|path| {
            let file = files.iter().find(|(at, _)| Path::new(at) == path);
            file.map(|(_, text)| (*text).to_owned())
        })
    }

    #[test]
    fn without_a_cgroup_the_machine_limits() {
        assert_eq!(limit_of(&[]), None);
        let machine = ("/proc/meminfo", MEMINFO);
        assert_eq!(limit_of(&[machine]), Some(16 * GIB));
        let none = [
            machine,
            ("/proc/self/cgroup", "0::/a\n"),
            ("/proc/self/mountinfo", V2),
            ("/sys/fs/cgroup/a/memory.max", "max\n"),
        ];
        assert_eq!(limit_of(&none), Some(16 * GIB));
    }

    #[test]
    fn the_smallest_limit_of_the_group_and_those_above_it_counts() {
        let of = |own: &str, above: &str, high: &str| {
            limit_of(&[
                ("/proc/meminfo", MEMINFO),
                ("/proc/self/cgroup", "0::/system.slice/relay.service\n"),
                ("/proc/self/mountinfo", V2),
                ("/sys/fs/cgroup/system.slice/relay.service/memory.max", own),
                (
                    "/sys/fs/cgroup/system.slice/relay.service/memory.high",
                    high,
                ),
                ("/sys/fs/cgroup/system.slice/memory.max", above),
            ])
        };
        assert_eq!(of("67108864\n", "max\n", "max\n"), Some(64 * MIB));
        assert_eq!(of("max\n", "67108864\n", "max\n"), Some(64 * MIB));
        assert_eq!(of("134217728\n", "67108864\n", "max\n"), Some(64 * MIB));
        assert_eq!(of("134217728\n", "max\n", "67108864\n"), Some(64 * MIB));
        assert_eq!(of("99999999999999\n", "max\n", "max\n"), Some(16 * GIB));
        assert_eq!(of("rubbish", "", "0"), Some(16 * GIB));
    }

    #[test]
    fn a_container_is_limited_by_what_it_sees_at_its_mount() {
        // With a cgroup namespace: the process's group is the root.
        let own = [
            ("/proc/meminfo", MEMINFO),
            ("/proc/self/cgroup", "0::/\n"),
            ("/proc/self/mountinfo", V2),
            ("/sys/fs/cgroup/memory.max", "67108864\n"),
        ];
        assert_eq!(limit_of(&own), Some(64 * MIB));
        // Without a cgroup namespace: the mount's root is the group, at its path outside.
        let mounts = V1.replace(
            " / /sys/fs/cgroup/memory",
            " /docker/x /sys/fs/cgroup/memory",
        );
        let outside = [
            (
                "/proc/self/cgroup",
                "9:memory:/docker/x\n3:cpu,cpuacct:/docker/x\n",
            ),
            ("/proc/self/mountinfo", &mounts),
            ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "67108864\n"),
        ];
        assert_eq!(limit_of(&outside), Some(64 * MIB));
    }

    #[test]
    fn version_1_has_a_tree_for_memory_alone() {
        let files = [
            ("/proc/meminfo", MEMINFO),
            (
                "/proc/self/cgroup",
                "12:cpu:/a\n9:memory:/a/b\n0::/elsewhere\n",
            ),
            ("/proc/self/mountinfo", V1),
            (
                "/sys/fs/cgroup/memory/a/b/memory.limit_in_bytes",
                "9223372036854771712\n",
            ),
            (
                "/sys/fs/cgroup/memory/a/memory.limit_in_bytes",
                "134217728\n",
            ),
            ("/sys/fs/cgroup/cpu/a/memory.limit_in_bytes", "1\n"),
        ];
        assert_eq!(limit_of(&files), Some(128 * MIB));
    }

    #[test]
    fn budgets_leave_half_of_the_memory_to_everything_else() {
        assert_eq!(shard_budget(None, 4, true), SHARD_BUDGET_BYTES);
        assert_eq!(shard_budget(Some(64 * GIB), 16, true), SHARD_BUDGET_BYTES);
        assert_eq!(shard_budget(Some(64 * MIB), 2, false), 8 * MIB);
        assert_eq!(shard_budget(Some(64 * MIB), 1, false), 16 * MIB);
        assert_eq!(shard_budget(Some(96 * MIB), 2, true), 8 * MIB);
        assert_eq!(shard_budget(Some(64 * MIB), 1024, false), MIB);
        for (limit, shards) in [(64 * MIB, 2), (GIB, 4), (2 * GIB, 16)] {
            for (has_quic, windows) in [(false, 0), (true, 1)] {
                let all =
                    shard_budget(Some(limit), shards, has_quic) * (2 + windows) * shards as u64;
                assert!(all <= limit / 2, "{limit} {shards} {has_quic}");
            }
        }
        assert_eq!(notsent(None), 1024 * 1024);
        assert_eq!(notsent(Some(16 * GIB)), 1024 * 1024);
        assert_eq!(notsent(Some(GIB)), 256 * 1024);
        assert_eq!(notsent(Some(64 * MIB)), 16 * 1024);
    }

    #[test]
    fn what_peers_can_make_the_relay_buffer_includes_the_windows_of_callers_over_quic() {
        let mut config = Config::standard();
        (config.shards, config.shard_budget_bytes) = (2, 8 * MIB);
        assert_eq!(config.buffered_bytes_max(), 32 * MIB);
        config.quic_listen = vec!["127.0.0.1:443".parse().unwrap()];
        assert_eq!(config.buffered_bytes_max(), 48 * MIB);
    }
}
