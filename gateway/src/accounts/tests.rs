use super::*;
use crate::config::{Allowance, BudgetPeriod, BudgetRule, BudgetScope};
use crate::money::Picos;

fn allowance(text: &str) -> Allowance {
    text.parse().unwrap()
}

fn shown(budgets: &[Budget]) -> Vec<String> {
    budgets.iter().map(|b| format!("{} {} {} {}", b.scope, b.id, b.period, b.limit)).collect()
}

fn new_key(name: &str) -> NewKey {
    NewKey { org: "acme".into(), project: "chat".into(), name: name.into(), ..NewKey::default() }
}

#[test]
fn a_key_lets_its_owner_in() {
    let dir = tempfile::tempdir().unwrap();
    let accounts = Accounts::open(dir.path()).unwrap();
    let limits = KeyLimits { requests_per_minute: Some(7), ..KeyLimits::default() };
    let key = accounts
        .create_key(&NewKey { limits, budgets: vec![allowance("5/day")], ..new_key("k") }, 1)
        .unwrap();
    assert!(key.secret.starts_with(SECRET_PREFIX) && key.secret.len() == SECRET_LEN);
    assert!(!format!("{key:?}").contains(&key.secret));
    let identity = accounts.authenticate(&key.secret, 2).unwrap();
    assert_eq!((identity.key_id.as_str(), identity.key_name.as_str()), (key.id.as_str(), "k"));
    assert_eq!((identity.org_name.as_str(), identity.project_name.as_str()), ("acme", "chat"));
    assert_eq!(identity.limits, limits);
    assert_eq!(shown(&identity.budgets), [format!("key {} day 5", key.id)]);
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
    let limit = Picos(-1);
    let negative = NewKey { budgets: vec![Allowance { period: BudgetPeriod::Day, limit }], ..new_key("k") };
    assert!(matches!(accounts.create_key(&negative, 1), Err(AccountsError::Range { .. })));
}

#[test]
fn configured_budgets_reach_the_identity() {
    let rule = |scope, name: &str, allowance: &str| {
        let (usd, period) = allowance.split_once('/').unwrap_or((allowance, "total"));
        let period = period.parse().unwrap();
        BudgetRule { scope, name: name.into(), usd: crate::config::Decimal(usd.into()), period }
    };
    let rules = [
        rule(BudgetScope::Organisation, "acme", "3"),
        rule(BudgetScope::Project, "acme/chat", "2"),
        rule(BudgetScope::Project, "acme/chat", "1"),
        rule(BudgetScope::Project, "acme/*", "7"),
        rule(BudgetScope::Project, "acme/*", "7/day"),
        rule(BudgetScope::Project, "acme/other", "9"),
        rule(BudgetScope::Key, "*", "8/month"),
        rule(BudgetScope::User, "acme/*", "0.1/day"),
        rule(BudgetScope::User, "acme/boss", "5/day"),
        rule(BudgetScope::Tag, "acme/team=*", "1"),
        rule(BudgetScope::Tag, "acme/team=red", "2/hour"),
    ];
    let dir = tempfile::tempdir().unwrap();
    let accounts = Accounts::open_with(dir.path(), &rules).unwrap();
    let key = accounts.create_key(&new_key("k"), 1).unwrap();
    let identity = accounts.authenticate(&key.secret, 1).unwrap();
    let (project, org) = (&identity.project_id, &identity.org_id);
    let standing = [
        format!("key {} month 8", key.id),
        format!("project {project} day 7"),
        format!("project {project} total 1"),
        format!("organisation {org} total 3"),
    ];
    assert_eq!(shown(&identity.budgets), standing);
    let of = |user, tags: &[(&'static str, &'static str)]| {
        shown(&identity.budgets_of(user, tags.iter().copied())[standing.len()..])
    };
    assert_eq!(of(None, &[("other", "x")]), [""; 0]);
    assert_eq!(of(Some("u"), &[]), [format!("user {org}/u day 0.1")]);
    assert_eq!(of(Some("boss"), &[]), [format!("user {org}/boss day 5")]);
    assert_eq!(
        of(None, &[("team", "red"), ("x", "y")]),
        [format!("tag {org}/team=red hour 2"), format!("tag {org}/team=red total 1")]
    );
    // A budget of the database counts beside those of the file: the smaller one.
    let own = |limit: &str| Budget {
        scope: BudgetScope::Project,
        id: project.clone(),
        period: BudgetPeriod::Day,
        limit: Picos::parse_usd(limit).unwrap(),
    };
    accounts.set_budget(&own("20"), 2).unwrap();
    let budgets = |accounts: &Accounts| shown(&accounts.authenticate(&key.secret, 3).unwrap().budgets);
    assert_eq!(
        budgets(&accounts)[1],
        format!("project {project} day 20"),
        "an own one replaces that for each"
    );
    accounts.remove_budget(BudgetScope::Project, project, BudgetPeriod::Day, 3).unwrap();
    assert_eq!(budgets(&accounts)[1], format!("project {project} day 7"));
    assert!(accounts.remove_budget(BudgetScope::Project, project, BudgetPeriod::Day, 3).is_err());
    assert!(accounts.set_budget(&Budget { id: "proj_x".into(), ..own("1") }, 3).is_err());
}

#[test]
fn every_change_is_in_the_audit_log() {
    let dir = tempfile::tempdir().unwrap();
    let accounts = Accounts::open(dir.path()).unwrap();
    let key = accounts.create_key(&NewKey { budgets: vec![allowance("1")], ..new_key("k") }, 1).unwrap();
    let (admin, secret) = accounts.create_admin_key("ops", 2).unwrap();
    assert!(secret.starts_with(ADMIN_SECRET_PREFIX));
    assert_eq!(accounts.authenticate_admin(&secret, 3).unwrap().id, admin.id);
    assert_eq!(accounts.authenticate_admin(&key.secret, 3), Err(AuthError::Malformed));
    assert_eq!(accounts.authenticate(&secret, 3), Err(AuthError::Malformed));
    let by = accounts.by(&admin.id);
    by.set_org_disabled("acme", true, 4).unwrap();
    by.revoke_key(&key.id, 5).unwrap();
    by.revoke_admin_key(&admin.id, 6).unwrap();
    assert_eq!(accounts.authenticate_admin(&secret, 7), Err(AuthError::Unknown));
    let log = accounts.audit_log(&AuditFilter::default(), 100).unwrap();
    let lines: Vec<_> = log.iter().rev().map(|row| (row.actor.as_str(), row.event.as_str())).collect();
    let ops = admin.id.as_str();
    assert_eq!(
        lines,
        [
            ("cli", "organization.created"),
            ("cli", "project.created"),
            ("cli", "api_key.created"),
            ("cli", "budget.created"),
            ("cli", "admin_api_key.created"),
            (ops, "organization.disabled"),
            (ops, "api_key.deleted"),
            (ops, "admin_api_key.deleted"),
        ]
    );
    let disabled = &log[2];
    assert!(disabled.before.as_ref().unwrap().contains("\"disabled_ms\":null"), "{disabled:?}");
    assert!(disabled.after.as_ref().unwrap().contains("\"disabled_ms\":4"), "{disabled:?}");
    assert!(!format!("{log:?}").contains(&key.secret) && !format!("{log:?}").contains(&secret));
    let filtered = |filter: AuditFilter| accounts.audit_log(&filter, 1).unwrap();
    let below = AuditFilter { below: Some(log[1].seq), ..AuditFilter::default() };
    assert_eq!(filtered(below), [log[2].clone()]);
    let above = AuditFilter { above: Some(log[2].seq), ..AuditFilter::default() };
    assert_eq!(filtered(above), [log[1].clone()]);
    let of = AuditFilter { objects: vec![log[2].object_id.clone()], ..AuditFilter::default() };
    assert_eq!(filtered(of)[0].object_id, log[2].object_id);
    let none = AuditFilter { events: vec!["no.event".to_owned()], ..AuditFilter::default() };
    assert!(filtered(none).is_empty());
    let db = rusqlite::Connection::open(dir.path().join("spillway.db")).unwrap();
    assert!(db.execute("UPDATE audit SET actor = 'x'", []).is_err());
    assert!(db.execute("DELETE FROM audit", []).is_err());
}

#[test]
fn settings_reach_the_identity() {
    let dir = tempfile::tempdir().unwrap();
    let accounts = Accounts::open(dir.path()).unwrap();
    let new = NewKey {
        permissions: Some(vec![Permission::ModelRead]),
        allowed_models: Some(vec!["a".into(), "b".into()]),
        allowed_ips: vec!["10.0.0.0/8".parse().unwrap()],
        ..new_key("k")
    };
    let key = accounts.create_key(&new, 1).unwrap();
    let mut project = accounts.list_projects().unwrap().remove(0);
    project.settings = ProjectSettings {
        allowed_tiers: Some(vec!["default".into(), "flex".into()]),
        default_tier: Some("flex".into()),
        allowed_models: Some(vec!["b".into(), "c".into()]),
        store_responses: StoreResponses::Never,
    };
    accounts.update_project(&project, 2).unwrap();
    accounts.set_credit_line("acme", Some(Picos(7)), 2).unwrap();
    let identity = accounts.authenticate(&key.secret, 60_000).unwrap();
    assert_eq!(identity.project, project.settings);
    assert_eq!(["a", "b", "c"].map(|model| identity.may_use(model)), [false, true, false]);
    assert!(identity.allows(Permission::ModelRead) && !identity.allows(Permission::ModelRequest));
    assert_eq!((identity.credit_line, identity.allowed_ips.len()), (Some(Picos(7)), 1));
    assert_eq!(accounts.key(&key.id).unwrap().last_used_ms, None);
    accounts.save_last_used().unwrap();
    assert_eq!(accounts.key(&key.id).unwrap().last_used_ms, Some(60_000));
    project.archived_ms = Some(5);
    accounts.update_project(&project, 5).unwrap();
    assert_eq!(accounts.authenticate(&key.secret, 6), Err(AuthError::ProjectArchived));
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
