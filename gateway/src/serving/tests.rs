//! An engine that fails under requests: logits that are no numbers, a step that fails, a thread that panics.

use engine::testing::FakeModel;
use engine::{Engine, EngineConfig, SamplingParams, Stop, Tier};
use futures::future::join_all;
use proptest::prelude::*;
use proptest::test_runner::Config as Cases;

use super::*;
use crate::accounts::Identity;
use crate::ledger::{Details, EndReason, Tokens, verify};
use crate::money::{Picos, PriceVersion};

/// What goes wrong once the model has said this token, or is given it in a prompt.
const BAD: u8 = b'e';

#[derive(Clone, Copy, Debug)]
enum Fault {
    None,
    NotNumbers,
    Fails,
    Panics,
}

fn engine(fault: Fault) -> Engine {
    let bad = Some(u32::from(BAD));
    let sound = FakeModel { end_one_in: 40, ..FakeModel::default() };
    let model = match fault {
        Fault::None => sound,
        Fault::NotNumbers => FakeModel { nan_after: bad, ..sound },
        Fault::Fails => FakeModel { fail_on: bad, ..sound },
        Fault::Panics => FakeModel { panic_on: bad, ..sound },
    };
    model.start(EngineConfig::default())
}

fn price() -> PriceVersion {
    PriceVersion::new("fake", "default", 0, Picos(100), Picos(50), Picos(400))
}

fn serving(dir: &std::path::Path) -> Arc<Serving> {
    let config = Config::default();
    let ledger = Ledger::open(dir, &config.ledger, unix_ms()).unwrap();
    let rates = Rates::new(&config, &[price()]).unwrap();
    Arc::new(Serving::new(ledger, rates, &config, Lifecycle::default()))
}

/// Letters of the prompt, choices, wanted output.
type Asked = (Vec<u8>, u32, u32);

fn asked() -> impl Strategy<Value = Asked> {
    (proptest::collection::vec(b'a'..=b'z', 1..30), 1..3_u32, 1..60_u32)
}

/// What it was billed; `None` where it failed, which costs nothing. It ends in time, whatever the engine does.
async fn ask(serving: &Arc<Serving>, engine: &Engine, id: usize, asked: &Asked) -> Option<Tokens> {
    let (prompt, n, max_tokens) = asked;
    let job = Job {
        request_id: format!("r{id}"),
        endpoint: "/v1/completions",
        identity: Arc::new(Identity { key_id: "key_1".to_owned(), ..Identity::default() }),
        details: Details::default(),
        prompts: vec![PromptInput::Tokens(prompt.iter().map(|letter| u32::from(*letter)).collect())],
        n: *n,
        max_tokens: Some(*max_tokens),
        sampling: SamplingParams { temperature: 0.0, ..SamplingParams::default() },
        stop: Stop::default(),
        form: None,
        wire: None,
        stream: false,
        tier: Tier::Default,
        batch: None,
        demand: Demand::default(),
        lease: None,
        signer: None,
        arrived: Instant::now(),
    };
    let mut flight = serving.admit(engine, job).await.ok()?;
    let mut counted = 0;
    loop {
        match flight.next().await {
            Step::Delta(_, delta) => counted += delta.tokens,
            Step::Done => {
                let tokens = flight.settle(EndReason::Finished).await.unwrap().tokens;
                assert_eq!(tokens.output, counted);
                assert_eq!(tokens.uncached_input + tokens.cached_input, prompt.len() as u32);
                assert!(tokens.output <= max_tokens * n);
                return Some(tokens);
            }
            Step::Cut(cause) => {
                assert!(matches!(cause, Cause::Engine(_)), "{cause:?}");
                flight.cut(&cause).await;
                return None;
            }
            Step::Prompt(..) | Step::Finished(..) | Step::Idle => {}
        }
    }
}

pub(super) fn cases(usual: u32) -> Cases {
    let config = Cases::default();
    if std::env::var_os("PROPTEST_CASES").is_some() { config } else { Cases { cases: usual, ..config } }
}

proptest! {
    #![proptest_config(cases(60))]

    #[test]
    fn whatever_the_engine_does_requests_end_and_are_billed_as_told(
        fault in prop_oneof![
            Just(Fault::None), Just(Fault::NotNumbers), Just(Fault::Fails), Just(Fault::Panics)
        ],
        asked in proptest::collection::vec(asked(), 1..8),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let (serving, engine) = (serving(dir.path()), engine(fault));
        let all = async {
            let all = asked.iter().enumerate().map(|(id, asked)| ask(&serving, &engine, id, asked));
            tokio::time::timeout(Duration::from_secs(60), join_all(all)).await.expect("every request ends")
        };
        let billed = runtime.block_on(all);
        engine.shutdown(Duration::from_secs(5));
        serving.ledger.close();
        let report = verify::verify(dir.path()).unwrap();
        prop_assert!(report.is_ok() && report.open == 0, "{}", report);
        let costs = billed.iter().flatten().map(|tokens| price().cost(*tokens).unwrap().total.0);
        prop_assert_eq!(report.cost.0, costs.sum::<i64>());
        if matches!(fault, Fault::None) {
            prop_assert_eq!(billed.iter().flatten().count(), asked.len());
        }
    }
}
