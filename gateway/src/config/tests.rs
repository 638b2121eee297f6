use std::io::Write as _;

use super::*;

fn load(text: &str, env: &[(&str, &str)]) -> Result<Config, ConfigError> {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    let env = env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    Config::load(Some(file.path()), env.collect::<Vec<_>>().into_iter())
}

fn refusal(text: &str, env: &[(&str, &str)]) -> String {
    load(text, env).unwrap_err().to_string()
}

#[test]
fn an_empty_file_is_the_default() {
    let config = load("", &[("PATH", "/bin"), ("SPILLWAY_DATA", "x")]).unwrap();
    assert_eq!(config, Config::default());
    assert_eq!(config, Config::load(None, std::iter::empty()).unwrap());
    assert_eq!(config.server.listen.to_string(), "127.0.0.1:8080");
    let card = config.rate_card().unwrap();
    let price = card.at("smollm2-135m-instruct", "default", 0).unwrap();
    assert_eq!((price.uncached_input.0, price.cached_input.0, price.output.0), (100_000, 50_000, 400_000));
}

#[test]
fn the_examples_of_the_pages_are_taken() {
    let pages = [include_str!("../../../README.md"), include_str!("../../README.md")].join("\n");
    let examples = pages.split("```toml\n").skip(1).map(|rest| rest.split_once("```").unwrap().0);
    let all: Vec<Config> =
        examples.map(|text| load(text, &[]).unwrap_or_else(|e| panic!("{e}: {text}"))).collect();
    let main = all.iter().find(|config| config.server.listen.ip().is_unspecified()).unwrap();
    assert_eq!((main.server.listen.port(), main.money.budget.len()), (8080, 1));
    assert!(
        all.iter().any(|config| config.models.len() == 2)
            && all.iter().any(|config| config.tiers.tenant.len() == 1)
    );
}

#[test]
fn the_examples_of_sections_are_taken() {
    for source in [include_str!("alerts.rs"), include_str!("fleet.rs"), include_str!("leases.rs")] {
        let text: String =
            source.lines().map_while(|line| line.strip_prefix("//!")).collect::<Vec<_>>().join("\n");
        let example = text.split_once("```toml\n").unwrap().1.split_once("```").unwrap().0;
        let config = load(example, &[]).unwrap_or_else(|e| panic!("{e}: {example}"));
        assert_ne!(config, Config::default());
    }
}

#[test]
fn defaults_lie_within_their_bounds_and_round_trip() {
    for bound in bounds() {
        assert!((bound.min..=bound.max).contains(&bound.default), "{bound:?}");
    }
    let text = toml::to_string(&Config::default()).unwrap();
    assert_eq!(load(&text, &[]).unwrap(), Config::default());
}

#[test]
fn the_environment_lies_over_the_file() {
    let file = "[server]\nlisten = \"127.0.0.1:1\"\nmax_headers = 32\n";
    let env = [
        ("SPILLWAY__SERVER__LISTEN", "0.0.0.0:9"),
        ("SPILLWAY__ENGINE__PREFIX_CACHE", "false"),
        ("SPILLWAY__MODEL__PATH", "7"),
        ("SPILLWAY__MONEY__PRICE", r#"[{model="m",uncached_input="1",cached_input="0",output="2"}]"#),
        ("SPILLWAY__MODEL__ID", "m"),
    ];
    let config = load(file, &env).unwrap();
    assert_eq!((config.server.listen.port(), config.server.max_headers), (9, 32));
    assert!(!config.engine.prefix_cache);
    assert_eq!(config.model.path.as_deref(), Some(Path::new("7")));
    assert_eq!(config.money.price[0].tier, "default");
}

#[test]
fn every_number_outside_its_bounds_is_refused_by_name() {
    for bound in bounds() {
        let (section, key) = bound.key.split_once('.').unwrap();
        let message = refusal(&format!("[{section}]\n{key} = {}\n", bound.max.saturating_add(1)), &[]);
        assert!(message.contains(key), "{message}");
        if bound.min > 0 {
            let message = refusal(&format!("[{section}]\n{key} = {}\n", bound.min - 1), &[]);
            assert!(message.contains(bound.key) && message.contains(&bound.max.to_string()), "{message}");
        }
        assert!(refusal(&format!("[{section}]\n{key} = -1\n"), &[]).contains(key));
        assert!(refusal(&format!("[{section}]\n{key} = \"x\"\n"), &[]).contains(key));
    }
}

#[test]
fn refusals_name_what_is_wrong() {
    let price = |rest: &str| format!("[[money.price]]\nmodel = \"smollm2-135m-instruct\"\n{rest}");
    for (text, env, needle) in [
        ("[sever]\n", &[][..], "sever"),
        ("[server]\nlistem = 1\n", &[], "listem"),
        ("[server]\nlisten = \"nowhere\"\n", &[], "listen"),
        ("listen = \n", &[], "line 1"),
        ("[engine]\nblock_size = 17\n", &[], "engine.block_size = \"17\""),
        ("[engine]\nprefill_chunk = 600\n", &[], "engine.prefill_chunk"),
        ("[engine]\nmax_num_seqs = 600\n", &[], "engine.max_num_seqs"),
        ("[model]\nid = \"other\"\n", &[], "no [[money.price]]"),
        ("[model]\nid = \"\"\n", &[], "model.id"),
        ("[[models]]\nid = \"other\"\n", &[], "no [[money.price]]"),
        ("[[models]]\nid = \"\"\n", &[], "models[0].id"),
        ("[[models]]\nid = \"all-minilm-l6-v2\"\n[model]\nid = \"x\"\n", &[], "not in both"),
        ("[[models]]\nid = \"all-minilm-l6-v2\"\n[[models]]\nid = \"all-minilm-l6-v2\"\n", &[], "twice"),
        ("[data]\ndir = \"\"\n", &[], "data.dir"),
        ("[money]\ncurrency = \"EUR\"\n", &[], "money.currency"),
        ("[[money.budget]]\nscope = \"project\"\nname = \"p\"\nusd = \"1\"\n", &[], "money.budget[0].name"),
        ("[[money.budget]]\nscope = \"key\"\nname = \"k\"\nusd = \"-1\"\n", &[], "money.budget[0].usd"),
        ("[[money.budget]]\nscope = \"team\"\nname = \"k\"\nusd = \"1\"\n", &[], "team"),
        ("", &[("SPILLWAY__SERVER__LISTENN", "1")], "SPILLWAY__SERVER__LISTENN"),
        ("", &[("SPILLWAY__SERVER", "1")], "SPILLWAY__<SECTION>__<KEY>"),
        ("", &[("SPILLWAY__ENGINE__THREADS", "two")], "SPILLWAY__ENGINE__THREADS"),
        ("", &[("SPILLWAY__ENGINE__THREADS", "2\nx = 1")], "SPILLWAY__ENGINE__THREADS"),
        (
            &price("uncached_input = 0.1\ncached_input = \"0\"\noutput = \"0\"\n"),
            &[],
            "write 0.1 as a string",
        ),
        (&price("uncached_input = 1\ncached_input = \"0\"\noutput = \"0\"\n"), &[], "as a string"),
        (
            &price("uncached_input = \"1e3\"\ncached_input = \"0\"\noutput = \"0\"\n"),
            &[],
            "money.price[0].uncached_input",
        ),
        (
            &price(
                "uncached_input = \"0\"\ncached_input = \"0\"\noutput = \"0\"\neffective_from = \"soon\"\n",
            ),
            &[],
            "money.price[0].effective_from",
        ),
    ] {
        let message = refusal(text, env);
        assert!(message.contains(needle), "{text:?}: {message}");
    }
    assert!(Config::load(Some(Path::new("/nonexistent")), std::iter::empty()).is_err());
}

#[test]
fn one_model_or_several() {
    let ids = |text: &str| -> Vec<String> {
        load(text, &[]).unwrap().served().into_iter().map(|rule| rule.id).collect()
    };
    assert_eq!(ids(""), ["smollm2-135m-instruct"]);
    let several =
        "[[models]]\nid = \"all-minilm-l6-v2\"\n[[models]]\nid = \"smollm2-135m-instruct\"\npath = \"x\"\n";
    assert_eq!(ids(several), ["all-minilm-l6-v2", "smollm2-135m-instruct"]);
    // The directory of weights is for all.
    assert_eq!(ids(&format!("{several}[model]\ndir = \"/weights\"\n")).len(), 2);
}

#[test]
fn instants_may_be_strings_or_dates() {
    for instant in ["\"2026-01-01\"", "2026-01-01", "2026-01-01T00:00:00Z"] {
        let text = format!(
            "[[money.price]]\nmodel = \"smollm2-135m-instruct\"\nuncached_input = \"1\"\ncached_input = \"1\"\n\
             output = \"1\"\neffective_from = {instant}\n"
        );
        let card = load(&text, &[]).unwrap().rate_card().unwrap();
        assert_eq!(card.versions()[0].effective_from_ms, 1_767_225_600_000, "{instant}");
    }
}

#[test]
fn the_data_directory_is_for_its_owner_alone() {
    use std::os::unix::fs::PermissionsExt;
    let parent = tempfile::tempdir().unwrap();
    let dir = parent.path().join("new/data");
    super::make_private_dir(&dir).unwrap();
    super::make_private_dir(&dir).unwrap();
    assert_eq!(dir.metadata().unwrap().permissions().mode() & 0o777, 0o700);
}
