//! The command line, beside a running server and without one.

use serde_json::json;

use crate::support::{Config, KeyOptions, Server, chat, command, data_folder, said, shared};

/// Id of the key with that name, read from `keys list`.
pub(crate) fn key_id(server: &Server, name: &str) -> String {
    let output = server.cli(&["keys", "list"]);
    assert!(output.status.success(), "{}", said(&output));
    let text = String::from_utf8(output.stdout).expect("a list is text");
    let line = text.lines().find(|l| l.contains(name)).unwrap_or_else(|| panic!("no key {name} in:\n{text}"));
    line.split_whitespace().next().expect("a line begins with the id").to_owned()
}

#[test]
fn a_created_key_is_printed_alone_and_once() {
    let (server, _) = shared();
    let output = server.cli(&["keys", "create", "--project", "printed", "--name", "printed-key"]);
    assert!(output.status.success(), "{}", said(&output));
    let text = String::from_utf8(output.stdout).expect("a key is text");
    let key = text.trim_end_matches('\n');
    assert_eq!(text, format!("{key}\n"), "the key and a line end, nothing else");
    let secret = key.strip_prefix("sk-sw-").unwrap_or_else(|| panic!("{key:?} does not begin with sk-sw-"));
    assert_eq!(secret.len(), 43, "{key:?}");
    assert!(secret.chars().all(|c| c.is_ascii_alphanumeric()), "{key:?}");
    let list = said(&server.cli(&["keys", "list"]));
    assert!(list.contains("printed-key"), "{list}");
    assert!(!list.contains(secret), "the list shows a key");
}

#[test]
fn the_commands_need_no_server() {
    let data = data_folder();
    let run = |arguments: &[&str]| crate::support::cli(data.path(), arguments);
    let created = run(&["keys", "create", "--project", "alone"]);
    assert!(created.status.success(), "{}", said(&created));
    for arguments in [&["keys", "list"][..], &["usage"], &["export", "--format", "jsonl"], &["verify"]] {
        let output = run(arguments);
        assert!(output.status.success(), "{arguments:?}: {}", said(&output));
    }
    let config = Config::new();
    let server = Server::start_in(data.clone(), &config);
    let key = String::from_utf8(created.stdout).expect("a key is text");
    assert_eq!(server.chat(key.trim(), &chat("Hi", json!({"max_tokens": 1}))).status(), 200);
}

#[test]
fn usage_adds_up_what_was_served() {
    let server = Server::start(&Config::new());
    let key = server.key(KeyOptions { project: "usage-project", ..KeyOptions::default() });
    let answer = server.chat(&key, &chat("Hi", json!({"max_tokens": 7, "ignore_eos": true}))).ok();
    let output = server.cli(&["usage"]);
    assert!(output.status.success(), "{}", said(&output));
    let text = said(&output);
    assert!(text.contains("usage-project"), "{text}");
    for count in [&answer["usage"]["prompt_tokens"], &answer["usage"]["completion_tokens"]] {
        let count = count.to_string();
        assert!(text.split(|c: char| !c.is_ascii_digit()).any(|w| w == count), "{count} is not in:\n{text}");
    }
}

fn refused(config_text: &str) -> String {
    let data = data_folder();
    let file = data.path().join("bad.toml");
    std::fs::write(&file, config_text).expect("write the configuration");
    let output = command(data.path()).args(["serve", "--config"]).arg(&file).output().expect("run spillway");
    assert!(!output.status.success(), "this configuration was taken:\n{config_text}");
    assert_ne!(output.status.code(), Some(101), "a panic instead of a refusal: {}", said(&output));
    assert!(output.status.code().is_some(), "killed by a signal: {}", said(&output));
    said(&output)
}

#[test]
fn a_wrong_configuration_refuses_to_start_and_names_the_key() {
    let good = Config::new();
    for (section, key, literal) in [
        ("server", "lisen", "\"127.0.0.1:0\""),
        ("nonsense", "x", "1"),
        ("limits", "key_requests_per_minute", "-1"),
        ("limits", "key_requests_per_minute", "\"many\""),
        ("server", "listen", "\"nowhere\""),
        ("server", "header_deadline_s", "0"),
        ("engine", "max_num_seqs", "0"),
        ("engine", "max_num_seqs", "1000000000"),
        ("engine", "block_size", "-16"),
    ] {
        let text = refused(&good.clone().with(section, key, literal).render());
        let named = if section == "nonsense" { section } else { key };
        assert!(text.contains(named), "{section}.{key} = {literal} is not named in:\n{text}");
    }
    for (price, named) in
        [("-0.10", "output"), ("0.1.0", "output"), ("ten", "output"), ("0.12345678901234567890", "output")]
    {
        let text = good.render()
            + &format!(
                "[[money.price]]\nmodel = \"smollm2-135m-instruct\"\ntier = \"default\"\nuncached_input = \"0.1\"\n\
                 cached_input = \"0.05\"\noutput = \"{price}\"\n"
            );
        let said = refused(&text);
        assert!(said.contains(named), "the price {price} is not named in:\n{said}");
    }
    let float = good.render()
        + "[[money.price]]\nmodel = \"smollm2-135m-instruct\"\ntier = \"default\"\nuncached_input = 0.10000000000000000001\n\
           cached_input = \"0.05\"\noutput = \"0.4\"\n";
    assert!(refused(&float).contains("uncached_input"), "a float is no price");
    assert!(refused("[server\n").contains("bad.toml"), "a file that cannot be read is named");
}

#[test]
fn a_wrong_environment_refuses_to_start_and_names_the_variable() {
    let data = data_folder();
    let file = data.path().join("good.toml");
    std::fs::write(&file, Config::new().render()).expect("write the configuration");
    for (name, value) in
        [("SPILLWAY__LIMITS__KEY_CONCURRENCY", "-5"), ("SPILLWAY__SERVER__LISTEN", "nowhere")]
    {
        let output = command(data.path())
            .args(["serve", "--config"])
            .arg(&file)
            .env(name, value)
            .output()
            .expect("run spillway");
        assert!(!output.status.success(), "{name}={value} was taken");
        assert!(said(&output).contains(name), "{name} is not named in:\n{}", said(&output));
    }
}

#[test]
fn wrong_arguments_are_refused() {
    let (server, _) = shared();
    for arguments in [
        &["export", "--format", "xml"][..],
        &["export", "--format", "csv", "--from", "yesterday"],
        &["export", "--format", "csv", "--from", "2026-02-30"],
        &["export", "--format", "csv", "--from", "2026-02-01", "--to", "2026-01-01"],
        &["keys", "create"],
        &["keys", "create", "--project", ""],
        &["keys", "create", "--project", "x", "--budget", "-1"],
        &["keys", "create", "--project", "x", "--budget", "1e3"],
        &["keys", "create", "--project", "x", "--rpm", "-1"],
        &["keys", "revoke", "key_none"],
        &["pull", "no-such-model"],
        &["nonsense"],
    ] {
        let output = server.cli(arguments);
        assert!(!output.status.success(), "{arguments:?} was taken: {}", said(&output));
        assert_ne!(output.status.code(), Some(101), "{arguments:?} panicked: {}", said(&output));
        assert!(!output.stderr.is_empty(), "{arguments:?} failed without a word");
    }
}

#[test]
fn the_csv_export_has_a_header_and_no_formulas() {
    let server = Server::start(&Config::new());
    for project in ["=cmd()", "+1", "@x", "-2", "a,b\"c\nd"] {
        let output = server.cli(&["keys", "create", &format!("--project={project}")]);
        if !output.status.success() {
            // Refusing such a name at all is as good as escaping it.
            continue;
        }
        let key = String::from_utf8(output.stdout).expect("a key is text");
        server.await_key(key.trim());
        assert_eq!(server.chat(key.trim(), &chat("Hi", json!({"max_tokens": 1}))).status(), 200);
    }
    let key = server.key(KeyOptions { project: "plain", ..KeyOptions::default() });
    assert_eq!(server.chat(&key, &chat("Hi", json!({"max_tokens": 1}))).status(), 200);
    let output = server.cli(&["export", "--format", "csv"]);
    assert!(output.status.success(), "{}", said(&output));
    let text = String::from_utf8(output.stdout).expect("CSV is UTF-8");
    let header = text.lines().next().expect("a header");
    let names: Vec<&str> = header.split(',').collect();
    for name in ["request_id", "uncached_input_tokens", "cached_input_tokens", "output_tokens"] {
        assert!(names.contains(&name), "no column {name} in {header}");
    }
    let mut reader = csv::Reader::from_reader(text.as_bytes());
    let mut rows = 0;
    for record in reader.records() {
        let record = record.expect("every record has as many fields as the header");
        rows += 1;
        for field in &record {
            let is_number = field.parse::<f64>().is_ok();
            let begins = field.starts_with(['=', '+', '-', '@', '\t', '\r']);
            assert!(!begins || is_number, "a field would run as a formula: {field:?}");
        }
    }
    assert_eq!(rows, server.export().len());
}

#[test]
fn a_second_server_on_the_same_data_is_refused() {
    let server = Server::start(&Config::new());
    let data = server.data();
    let file = data.path().join("second.toml");
    std::fs::write(&file, Config::new().render()).expect("write the configuration");
    let output = command(data.path()).args(["serve", "--config"]).arg(&file).output().expect("run spillway");
    assert!(!output.status.success(), "two servers share one ledger");
    assert!(!output.stderr.is_empty());
    assert_eq!(server.admin_get("/readyz").status(), 200, "the first one goes on");
}

#[test]
fn a_damaged_ledger_is_noticed() {
    let data = data_folder();
    let mut server = Server::start_in(data.clone(), &Config::new());
    let key = server.key(KeyOptions { project: "damage", ..KeyOptions::default() });
    assert_eq!(server.chat(&key, &chat("Hi", json!({"max_tokens": 3}))).status(), 200);
    server.terminate();
    assert_eq!(server.exit_status().code(), Some(0));
    server.verify();
    let file = data.path().join("ledger.db");
    let bytes = std::fs::read(&file).expect("read the ledger");
    let id = server.export()[0].request_id.clone();
    let at = bytes.windows(id.len()).position(|w| w == id.as_bytes()).expect("the request id is in the file");
    let mut damaged = bytes;
    damaged[at + id.len() - 1] ^= 1;
    std::fs::write(&file, damaged).expect("write the damaged ledger");
    let output = server.cli(&["verify"]);
    assert!(!output.status.success(), "a changed row was not noticed: {}", said(&output));
}

#[test]
fn a_reader_that_leaves_is_no_accident() {
    let server = Server::start(&Config::new());
    for arguments in [&["usage"][..], &["verify"], &["keys", "list"], &["export", "--format", "csv"]] {
        let (reader, writer) = std::io::pipe().expect("a pipe");
        drop(reader);
        let data = server.data();
        let mut command = command(data.path());
        let output = command.args(arguments).arg("--data").arg(data.path()).stdout(writer).output();
        let output = output.expect("run spillway");
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {}", said(&output));
        assert!(output.stderr.is_empty(), "{arguments:?}: {}", said(&output));
    }
}
