use super::*;

fn new_key(name: &str) -> NewKey {
    NewKey { org: "acme".into(), project: "chat".into(), name: name.into(), ..NewKey::default() }
}

#[test]
fn a_key_lets_its_owner_in() {
    let dir = tempfile::tempdir().unwrap();
    let accounts = Accounts::open(dir.path()).unwrap();
    let limits = KeyLimits { requests_per_minute: Some(7), ..KeyLimits::default() };
    let key = accounts.create_key(&NewKey { limits, budget: Some(Picos(5)), ..new_key("k") }, 1).unwrap();
    assert!(key.secret.starts_with(SECRET_PREFIX) && key.secret.len() == SECRET_LEN);
    assert!(!format!("{key:?}").contains(&key.secret));
    let identity = accounts.authenticate(&key.secret, 2).unwrap();
    assert_eq!((identity.key_id.as_str(), identity.key_name.as_str()), (key.id.as_str(), "k"));
    assert_eq!((identity.org_name.as_str(), identity.project_name.as_str()), ("acme", "chat"));
    assert_eq!((identity.limits, identity.budgets.key), (limits, Some(Picos(5))));
    assert_eq!(accounts.names().unwrap().of(&identity.org_id), "acme");
    assert_eq!(accounts.names().unwrap().of("org_x"), "org_x");

    let reopened = Accounts::open(dir.path()).unwrap();
    assert_eq!(reopened.authenticate(&key.secret, 2), Ok(identity));
}

#[test]
fn bank_statement_of_refusals() {
    let dir = tempfile::tempdir().unwrap();
    let accounts = Accounts::open(dir.path()).unwrap();
    let key = accounts.create_key(&NewKey { expires_at_ms: Some(100), ..new_key("k") }, 1).unwrap();
    let other = accounts.create_key(&new_key("gone"), 1).unwrap();
    accounts.revoke_key(&other.id, 9).unwrap();
    let stranger = format!("{SECRET_PREFIX}{}", "a".repeat(43));
    let cases: Vec<(String, Result<(), AuthError>)> = vec![
        (key.secret.clone(), Ok(())),
        (String::new(), Err(AuthError::Missing)),
        ("sk-other".into(), Err(AuthError::Malformed)),
        ("x".repeat(65_536), Err(AuthError::Malformed)),
        (format!("{} ", &key.secret[..48]), Err(AuthError::Malformed)),
        (format!("{SECRET_PREFIX}{}", "é".repeat(21)) + "a", Err(AuthError::Malformed)),
        (key.secret.to_uppercase(), Err(AuthError::Malformed)),
        (stranger, Err(AuthError::Unknown)),
        (other.secret, Err(AuthError::Revoked)),
    ];
    for (secret, expected) in cases {
        let got = accounts.authenticate(&secret, 99).map(drop);
        assert_eq!(got, expected, "{}", secret.chars().take(60).collect::<String>());
    }
    assert_eq!(accounts.authenticate(&key.secret, 100), Err(AuthError::Expired));
    accounts.set_org_disabled("acme", true, 50).unwrap();
    assert_eq!(accounts.authenticate(&key.secret, 99), Err(AuthError::OrgDisabled));
    accounts.set_org_disabled("acme", false, 50).unwrap();
    assert!(accounts.authenticate(&key.secret, 99).is_ok());
    assert_eq!(AuthError::Malformed.to_string(), AuthError::Unknown.to_string());
}

#[test]
fn a_change_by_another_process_is_seen_in_time() {
    let dir = tempfile::tempdir().unwrap();
    let server = Accounts::open(dir.path()).unwrap();
    let cli = Accounts::open(dir.path()).unwrap();
    let key = cli.create_key(&new_key("k"), 1).unwrap();
    assert!(server.authenticate(&key.secret, 1000).is_ok());
    cli.revoke_key("k", 1001).unwrap();
    assert!(server.authenticate(&key.secret, 1249).is_ok(), "within the polling period");
    assert_eq!(server.authenticate(&key.secret, 1250), Err(AuthError::Revoked));
    let second = cli.create_key(&new_key("k2"), 1300).unwrap();
    // A clock that jumps back must not stop the polling.
    assert!(server.authenticate(&second.secret, 10).is_ok());
}

#[test]
fn revocation_finds_one_key() {
    let dir = tempfile::tempdir().unwrap();
    let accounts = Accounts::open(dir.path()).unwrap();
    let first = accounts.create_key(&new_key("twin"), 1).unwrap();
    let second = accounts.create_key(&new_key("twin"), 2).unwrap();
    assert!(matches!(accounts.revoke_key("twin", 3), Err(AccountsError::Ambiguous { count: 2, .. })));
    assert!(matches!(accounts.revoke_key("none", 3), Err(AccountsError::NoSuchKey(_))));
    let prefix = first.secret[..SECRET_PREFIX.len() + 8].to_owned();
    assert_eq!(accounts.revoke_key(&prefix, 3).unwrap().id, first.id);
    assert_eq!(accounts.revoke_key("twin", 4).unwrap().id, second.id);
    assert_eq!(accounts.revoke_key(&first.id, 9).unwrap().revoked_ms, Some(3));
    let keys = accounts.list_keys().unwrap();
    assert_eq!(keys.iter().map(|k| k.revoked_ms).collect::<Vec<_>>(), [Some(3), Some(4)]);
    assert_eq!(keys[0].prefix, prefix);
}

#[test]
fn names_are_checked() {
    let dir = tempfile::tempdir().unwrap();
    let accounts = Accounts::open(dir.path()).unwrap();
    for name in ["", " a", "a\n", "a/b", "\u{7f}", &"n".repeat(65)] {
        assert!(
            matches!(accounts.create_key(&new_key(name), 1), Err(AccountsError::Name { .. })),
            "{name:?}"
        );
        assert!(accounts.ensure_project(name, "p", 1).is_err());
        assert!(accounts.ensure_project("o", name, 1).is_err());
    }
    for name in ["'; DROP TABLE keys; --", "名前", &"é".repeat(64)] {
        accounts.create_key(&new_key(name), 1).unwrap();
    }
    assert_eq!(accounts.list_keys().unwrap().len(), 3);
    let negative = NewKey { budget: Some(Picos(-1)), ..new_key("k") };
    assert!(matches!(accounts.create_key(&negative, 1), Err(AccountsError::Range { .. })));
}

#[test]
fn configured_budgets_reach_the_identity() {
    let rule = |scope, name: &str, usd: &str| BudgetRule {
        scope,
        name: name.into(),
        usd: crate::config::Decimal(usd.into()),
    };
    let rules = [
        rule(BudgetScope::Organisation, "acme", "3"),
        rule(BudgetScope::Project, "acme/chat", "2"),
        rule(BudgetScope::Project, "acme/chat", "1"),
        rule(BudgetScope::Project, "acme/other", "9"),
    ];
    let dir = tempfile::tempdir().unwrap();
    let accounts = Accounts::open_with(dir.path(), &rules).unwrap();
    let key = accounts.create_key(&new_key("k"), 1).unwrap();
    let usd = |text| Picos::parse_usd(text).ok();
    let budgets = accounts.authenticate(&key.secret, 1).unwrap().budgets;
    assert_eq!(budgets, Budgets { key: None, project: usd("1"), org: usd("3") });
}

#[test]
fn the_secret_is_nowhere_on_disk_and_the_pepper_is_guarded() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let key = Accounts::open(dir.path()).unwrap().create_key(&new_key("k"), 1).unwrap();
    for entry in std::fs::read_dir(dir.path()).unwrap() {
        let bytes = std::fs::read(entry.unwrap().path()).unwrap();
        let tail = &key.secret.as_bytes()[SECRET_PREFIX.len() + 8..];
        assert!(!bytes.windows(tail.len()).any(|window| window == tail));
    }
    let pepper = dir.path().join("pepper");
    assert_eq!(std::fs::metadata(&pepper).unwrap().permissions().mode() & 0o777, 0o600);
    std::fs::set_permissions(&pepper, std::fs::Permissions::from_mode(0o644)).unwrap();
    assert!(matches!(Accounts::open(dir.path()), Err(AccountsError::PepperReadable { mode: 0o644, .. })));
    std::fs::remove_file(&pepper).unwrap();
    assert!(matches!(Accounts::open(dir.path()), Err(AccountsError::WrongPepper { .. })));
}

#[test]
fn eight_processes_may_start_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let secrets: Vec<String> = std::thread::scope(|scope| {
        let open = || {
            let accounts = Accounts::open(dir.path()).unwrap();
            accounts.create_key(&new_key("k"), 1).unwrap().secret
        };
        let threads: Vec<_> = (0..8).map(|_| scope.spawn(open)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let accounts = Accounts::open(dir.path()).unwrap();
    assert!(secrets.iter().all(|secret| accounts.authenticate(secret, 1).is_ok()));
}
