//! The operator's side of the private listener, and the commands that do the same.

use serde_json::{Value, json};

use crate::support::{Config, KeyOptions, Method, Server, chat, eventually, model_id, said, shared};

struct Operator<'a> {
    server: &'a Server,
    key: String,
}

impl<'a> Operator<'a> {
    fn of(server: &'a Server) -> Self {
        Self { server, key: server.admin_key() }
    }

    fn get(&self, path: &str) -> Value {
        self.server.operate(Method::Get, path, &self.key, None).ok()
    }

    fn post(&self, path: &str, body: Value) -> Value {
        self.server.operate(Method::Post, path, &self.key, Some(&body)).ok()
    }

    /// Status, code and param of a refusal.
    fn refused(&self, method: Method, path: &str, body: Option<Value>) -> (u16, String, Value) {
        let reply = self.server.operate(method, path, &self.key, body.as_ref());
        (reply.status(), reply.code(), reply.json()["error"]["param"].clone())
    }

    fn organization(&self, name: &str) -> String {
        text(&self.post("/v1/admin/organizations", json!({"name": name}))["id"])
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("{value} is no text")).to_owned()
}

fn ask(server: &Server, key: &str) -> u16 {
    server.chat(key, &chat("Hi", json!({"max_tokens": 2}))).status()
}

#[test]
fn only_admin_keys_are_let_in_and_only_on_the_private_listener() {
    let (server, customer) = shared();
    let admin = server.admin_key();
    let path = "/v1/organization/projects";
    for key in ["", "sk-admin-x", customer] {
        let reply = server.operate(Method::Get, path, key, None);
        assert_eq!((reply.status(), reply.code().as_str()), (401, "invalid_api_key"), "{key:?}");
        assert!(reply.header("x-request-id").is_some());
    }
    assert_eq!(server.operate(Method::Get, path, &admin, None).status(), 200);
    assert_eq!(server.fetch(path, customer).status(), 404, "the public listener has no such route");
    assert_eq!(ask(server, &admin), 401, "an admin key is no key of a customer");
    let id =
        text(&server.operate(Method::Get, "/v1/organization/admin_api_keys", &admin, None).ok()["last_id"]);
    let path = format!("/v1/organization/admin_api_keys/{id}");
    let gone = server.operate(Method::Delete, &path, &admin, None).ok();
    assert_eq!(gone, json!({"id": id, "object": "organization.admin_api_key.deleted", "deleted": true}));
    assert_eq!(server.operate(Method::Get, &path, &admin, None).status(), 401);
}

#[test]
fn projects_and_keys_live_as_the_api_says() {
    let (server, _) = shared();
    let operator = Operator::of(server);
    let org = operator.organization("lifecycle");
    let body = json!({"name": "web", "organization_id": org, "concurrency": 3});
    let project = operator.post("/v1/organization/projects", body.clone());
    assert_eq!((&project["object"], &project["status"]), (&json!("organization.project"), &json!("active")));
    assert_eq!(project["concurrency"], 3);
    let again = operator.refused(Method::Post, "/v1/organization/projects", Some(body));
    assert_eq!((again.0, again.1.as_str()), (409, "already_exists"));
    let at = format!("/v1/organization/projects/{}", text(&project["id"]));
    let changed = operator.post(&at, json!({"name": "shop", "default_tier": "flex", "concurrency": null}));
    assert_eq!((&changed["name"], &changed["default_tier"]), (&json!("shop"), &json!("flex")));
    assert_eq!(changed["concurrency"], Value::Null);

    let keys = format!("{at}/api_keys");
    let body = json!({"name": "k", "scopes": ["model.request"], "allowed_models": [model_id()],
                      "allowed_ips": ["127.0.0.0/8"], "expires_in_seconds": 3_600, "requests_per_minute": 100});
    let made = operator.post(&keys, body);
    let secret = text(&made["value"]);
    assert!(secret.starts_with(text(&made["redacted_value"]).trim_end_matches('.')));
    eventually("the new key works", || ask(server, &secret) == 200);
    let key = format!("{keys}/{}", text(&made["id"]));
    assert!(operator.get(&key)["value"].is_null(), "a secret is told once");
    operator.post(&key, json!({"allowed_ips": ["10.0.0.0/8"]}));
    eventually("the address list holds", || ask(server, &secret) == 401);
    operator.post(&key, json!({"allowed_ips": [], "scopes": []}));
    eventually("the key works from everywhere", || ask(server, &secret) == 200);
    assert_eq!(server.fetch("/v1/models", &secret).status(), 200, "without scopes it may do everything");
    assert_eq!(operator.get(&keys)["data"][0]["id"], made["id"]);
    operator.server.operate(Method::Delete, &key, &operator.key, None).ok();
    eventually("a deleted key is refused", || ask(server, &secret) == 401);
    assert_eq!(operator.refused(Method::Get, &key, None).0, 404);
    assert_eq!(operator.get(&keys)["data"], json!([]));

    let second = text(&operator.post(&keys, json!({"name": "k2"}))["value"]);
    eventually("the second key works", || ask(server, &second) == 200);
    assert_eq!(operator.post(&format!("{at}/archive"), json!({}))["status"], "archived");
    eventually("keys of an archived project are refused", || ask(server, &second) == 403);
    let refused = operator.refused(Method::Post, &keys, Some(json!({"name": "k3"})));
    assert_eq!((refused.0, refused.1.as_str()), (403, "project_archived"));
    let listed = |query: &str| {
        let path = format!("/v1/organization/projects?organization_id={org}{query}");
        operator.get(&path)["data"].as_array().expect("a list").len()
    };
    assert_eq!((listed(""), listed("&include_archived=true")), (0, 1));
}

#[test]
fn bodies_are_read_strictly() {
    let (server, _) = shared();
    let operator = Operator::of(server);
    let org = operator.organization("strict");
    let projects = "/v1/organization/projects";
    let with = |extra: Value| crate::support::merged(json!({"name": "p", "organization_id": org}), extra);
    let credits = format!("/v1/admin/organizations/{org}/credits");
    for (path, body, param) in [
        (projects, json!({"organization_id": org}), "name"),
        (projects, with(json!({"name": "a/b"})), "name"),
        (projects, with(json!({"colour": "red"})), "colour"),
        (projects, with(json!({"geography": "EU"})), "geography"),
        (projects, with(json!({"default_tier": "gold"})), "default_tier"),
        (projects, with(json!({"allowed_tiers": ["flex", "gold"]})), "allowed_tiers[1]"),
        (projects, with(json!({"concurrency": -1})), "concurrency"),
        (projects, with(json!({"store_responses": "maybe"})), "store_responses"),
        (&credits, json!({}), "amount_usd"),
        (&credits, json!({"amount_usd": 5}), "amount_usd"),
        (&credits, json!({"amount_usd": "-5"}), "amount_usd"),
        (&credits, json!({"amount_usd": "5", "expires_at": 1}), "expires_at"),
        (&credits, json!({"amount_usd": "5", "kind": "gift"}), "kind"),
        ("/v1/admin/budgets", json!({"scope": "galaxy", "subject_id": "x", "limit_usd": "1"}), "scope"),
        ("/v1/admin/prices", json!({"model": "none"}), "model"),
    ] {
        let (status, _, found) = operator.refused(Method::Post, path, Some(body.clone()));
        assert!((400..=404).contains(&status), "{path} {body}: {status}");
        assert_eq!(found, param, "{path} {body}");
    }
    assert_eq!(
        operator.get(&format!("{projects}?organization_id={org}"))["data"],
        json!([]),
        "nothing was made"
    );
    let (status, _, param) = operator.refused(Method::Get, &format!("{projects}?page=2"), None);
    assert_eq!((status, param), (400, json!("page")));
    assert_eq!(operator.refused(Method::Get, "/v1/organization/projects/proj_none", None).0, 404);
}

#[test]
fn prepaid_organizations_run_dry_and_are_filled_up() {
    let server = Server::start(&Config::new());
    let operator = Operator::of(&server);
    let key = server.key(KeyOptions { project: "p", org: Some("prepaid"), ..KeyOptions::default() });
    let org = "/v1/admin/organizations/prepaid";
    assert_eq!(operator.post(org, json!({"credit_line_usd": "0"}))["credit_line_usd"], "0");
    eventually("without credit nothing is served", || ask(&server, &key) == 429);
    let reply = server.chat(&key, &chat("Hi", json!({"max_tokens": 2})));
    assert_eq!(
        (reply.code().as_str(), reply.header("x-should-retry")),
        ("credit_balance_exhausted", Some("false"))
    );

    let grant = |amount: &str, header: &str| {
        let (bearer, body) =
            (format!("Bearer {}", operator.key), json!({"amount_usd": amount, "note": "paid"}));
        let headers = [("Authorization", bearer.as_str()), ("Idempotency-Key", header)];
        server.operate_raw(Method::Post, &format!("{org}/credits"), &headers, Some(&body))
    };
    let first = grant("0.5", "a").ok();
    assert_eq!((&first["status"], &first["kind"]), (&json!("posted"), &json!("grant")));
    assert_eq!(
        grant("0.5", "a").ok()["ledger_sequence"],
        first["ledger_sequence"],
        "the same key is the same credit"
    );
    assert_eq!(grant("0.6", "a").status(), 422);
    assert_eq!(operator.get(&format!("{org}/balance"))["balance_usd"], "0.5");
    assert_eq!(ask(&server, &key), 200);
    let balance = operator.get(&format!("{org}/balance"));
    assert_ne!(balance["spent_usd"], "0", "{balance}");
    assert_eq!(balance["available_usd"], balance["balance_usd"], "{balance}");

    let body = json!({"amount_usd": "-0.1", "kind": "correction", "note": "typing error"});
    operator.post(&format!("{org}/credits"), body);
    assert_eq!(operator.get(&format!("{org}/balance"))["credited_usd"], "0.4");
    let output = server.cli(&["credits", "grant", "prepaid", "1.25", "--note", "by hand"]);
    assert!(output.status.success(), "{}", said(&output));
    let output = said(&server.cli(&["credits", "balance", "prepaid"]));
    assert!(output.contains("credited     1.65"), "{output}");
    let listed = said(&server.cli(&["credits", "list", "prepaid"]));
    assert!(listed.contains("by hand") && listed.contains("typing error"), "{listed}");
    assert_eq!(operator.get(&format!("{org}/credits"))["data"].as_array().map(Vec::len), Some(3));
    server.verify();
}

#[test]
fn budgets_and_organizations_take_effect_on_a_running_server() {
    let server = Server::start(&Config::new());
    let operator = Operator::of(&server);
    let key = server.key(KeyOptions { project: "p", org: Some("budgeted"), ..KeyOptions::default() });
    let org = text(&operator.get("/v1/admin/organizations/budgeted")["id"]);
    assert_eq!(ask(&server, &key), 200);
    let body = json!({"scope": "organization", "subject_id": org, "period": "day", "limit_usd": "0"});
    let made = operator.post("/v1/admin/budgets", body);
    eventually("the budget holds", || ask(&server, &key) == 429);
    assert_eq!(operator.get("/v1/admin/budgets?scope=organization")["data"][0], made);
    let query = format!("/v1/admin/budgets?scope=organization&subject_id={org}&period=day");
    assert_eq!(server.operate(Method::Delete, &query, &operator.key, None).ok()["deleted"], true);
    eventually("the budget is gone", || ask(&server, &key) == 200);
    assert_eq!(operator.refused(Method::Delete, &query, None).0, 404);

    assert_eq!(
        operator.post("/v1/admin/organizations/budgeted", json!({"status": "disabled"}))["status"],
        "disabled"
    );
    eventually("a disabled organization is refused", || ask(&server, &key) == 403);
    assert!(server.cli(&["orgs", "enable", "budgeted"]).status.success());
    eventually("an enabled one is served", || ask(&server, &key) == 200);
    let listed = said(&server.cli(&["orgs", "list"]));
    assert!(listed.contains("budgeted") && listed.contains("active"), "{listed}");
    server.verify();
}

#[test]
fn a_price_version_counts_from_its_instant_on() {
    let server = Server::start(&Config::new());
    let operator = Operator::of(&server);
    let key = server.key(KeyOptions { project: "p", ..KeyOptions::default() });
    let price = |extra: Value| {
        let base = json!({"model": model_id(), "uncached_input": "1", "cached_input": "1", "output": "1"});
        crate::support::merged(base, extra)
    };
    let made = operator.post("/v1/admin/prices", price(json!({})));
    operator.post("/v1/admin/prices", price(json!({"output": "9", "effective_from": "2999-01-01"})));
    let past = price(json!({"effective_from": "2020-01-01"}));
    let (status, _, param) = operator.refused(Method::Post, "/v1/admin/prices", Some(past));
    assert_eq!((status, param), (400, json!("effective_from")));
    let again = price(json!({"output": "8", "effective_from": "2999-01-01"}));
    assert_eq!(operator.refused(Method::Post, "/v1/admin/prices", Some(again)).0, 400);
    let reply = server.chat(&key, &chat("Hi", json!({"max_tokens": 2, "ignore_eos": true})));
    let usage = reply.ok()["usage"].clone();
    let row = server.row(reply.header("x-request-id").expect("x-request-id"));
    let tokens = usage["total_tokens"].as_u64().expect("a count");
    assert_eq!(row.cost_picos, i128::from(tokens) * 1_000_000, "one USD per million of every class");
    let listed = operator.get(&format!("/v1/admin/prices?model={}&limit=100", model_id()));
    let ids: Vec<&Value> =
        listed["data"].as_array().expect("a list").iter().map(|price| &price["id"]).collect();
    assert!(ids.contains(&&made["id"]), "{listed}");
    server.verify();
}

#[test]
fn the_audit_log_names_who_changed_what() {
    let (server, _) = shared();
    let operator = Operator::of(server);
    let org = operator.organization("audited");
    let body = json!({"name": "p", "organization_id": org});
    let project = text(&operator.post("/v1/organization/projects", body)["id"]);
    operator.post(&format!("/v1/organization/projects/{project}"), json!({"name": "q"}));
    let path = format!("/v1/organization/audit_logs?project_ids[]={project}");
    let log = operator.get(&path);
    let types: Vec<&Value> =
        log["data"].as_array().expect("a list").iter().map(|line| &line["type"]).collect();
    assert_eq!(types, ["project.updated", "project.created"]);
    let line = &log["data"][0];
    assert_eq!(line["actor"]["type"], "api_key");
    assert_eq!(
        (&line["project.updated"]["before"]["name"], &line["project.updated"]["changes_requested"]["name"]),
        (&json!("p"), &json!("q"))
    );
    let first = operator.get(&format!("{path}&limit=1"));
    assert_eq!((&first["data"][0], &first["has_more"]), (line, &json!(true)));
    let second = operator.get(&format!("{path}&limit=1&after={}", text(&first["last_id"])));
    assert_eq!((&second["data"][0], &second["has_more"]), (&log["data"][1], &json!(false)));
    let back = operator.get(&format!("{path}&limit=1&before={}", text(&second["first_id"])));
    assert_eq!(&back["data"][0], line);
    let only = operator.get(&format!("{path}&event_types[]=project.created&effective_at[gte]=1"));
    assert_eq!(only["data"], json!([log["data"][1]]));
}
