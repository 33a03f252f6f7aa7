//! Tests of settings that are mostly written in tables: the audit log and the limits.

use super::*;

#[test]
fn the_audit_log_is_set_in_any_of_the_three_places() {
    let folder = folder();
    assert_eq!(Case::default().config().audit, None);
    let text = "[audit]\nfile = \"audit.log\"\nmax_bytes = 100000";
    let wanted = AuditConfig {
        file: folder.path().join("audit.log"),
        max_bytes: 100_000,
    };
    assert_eq!(Case::file(folder.path(), text).config().audit, Some(wanted));
    let audit = Case::flags("--audit-file /a/log --audit-max-bytes 70000")
        .and_variable("TIELINE_RELAY_AUDIT_MAX_BYTES", "80000")
        .config()
        .audit
        .unwrap();
    let standard = AuditConfig::new("/a/log".into());
    assert_eq!(
        audit,
        AuditConfig {
            max_bytes: 70_000,
            ..standard
        }
    );
}

#[test]
fn limits_are_set_for_holders_and_addresses_apart() {
    assert_eq!(Case::default().config().limits, LimitsConfig::default());
    let folder = folder();
    secret_file(folder.path(), &[7; 32], 0o600);
    let text = "auth = \"jwt\"\njwt_secret_file = \"secret\"\n\
                [limits.sub]\nsessions = 5\nbytes_per_second = 1000000\ntunnels = 7\n\
                [limits.address]\nrequests_per_second = 9";
    let limits = Case::file(folder.path(), text)
        .and_flags("--limits-address-registrations-per-minute 60 --limits-address-tunnels 0")
        .and_flags("--limits-address-new-links 0")
        .and_variable("TIELINE_RELAY_LIMITS_SUB_SESSIONS", "6")
        .config()
        .limits;
    let wanted = LimitsConfig {
        sub: Allowance {
            sessions: 6,
            bytes_per_second: 1_000_000,
            ..Allowance::default()
        },
        address: Allowance {
            requests_per_second: 9,
            registrations_per_minute: 60,
            ..Allowance::default()
        },
        sub_tunnels: Some(7),
        address_tunnels: Some(0),
        address_new_links: 0,
    };
    assert_eq!(limits, wanted);
}

#[test]
fn the_state_folder_has_a_place_beside_the_settings_file() {
    assert_eq!(Case::default().config().state_dir, None);
    let folder = folder();
    let config = Case::file(folder.path(), "state_dir = \"state\"").config();
    assert_eq!(config.state_dir, Some(folder.path().join("state")));
    let config = Case::flags("--state-dir /var/lib/tieline-relay").config();
    assert_eq!(config.state_dir, Some("/var/lib/tieline-relay".into()));
    let config = Case::default()
        .and_variable("TIELINE_RELAY_STATE_DIR", "state")
        .config();
    assert_eq!(config.state_dir, Some("state".into()));
}

#[test]
fn what_would_do_nothing_or_too_much_is_refused() {
    for (flags, wanted) in [
        (
            "--audit-max-bytes 100000",
            "does nothing without audit_file",
        ),
        ("--audit-file a --audit-max-bytes 1", "audit_max_bytes is 1"),
        ("--audit-file a --audit-keep 10", "--audit-keep is gone"),
        ("--limits-sub-sessions 1", "limits_sub does nothing here"),
        ("--limits-sub-tunnels 1", "limits_sub does nothing here"),
        (
            "--limits-address-tunnels 1000001",
            "limits_address_tunnels is 1000001",
        ),
        (
            "--limits-address-new-links 1000001",
            "limits_address_new_links is 1000001",
        ),
        (
            "--limits-address-sessions 1000001",
            "limits_address_sessions is 1000001",
        ),
        (
            "--limits-address-bytes-per-second -1",
            "--limits-address-bytes-per-second: \"-1\"",
        ),
    ] {
        let flags = flags.replace(" -1", "=-1");
        let error = Case::flags(&flags).error();
        assert!(error.contains(wanted), "{flags}: {error}");
    }
}
