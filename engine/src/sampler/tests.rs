use super::*;
use crate::grammar::{GrammarCompiler, GrammarLimits, GrammarSource};
use crate::testing;

const GREEDY: SamplingParams = SamplingParams {
    temperature: 0.0,
    top_p: 1.0,
    top_k: None,
    min_p: 0.0,
    presence_penalty: 0.0,
    frequency_penalty: 0.0,
    repetition_penalty: 1.0,
    logit_bias: Vec::new(),
    seed: 0,
    logprobs: None,
    prompt_logprobs: None,
    min_tokens: 0,
    ignore_eos: false,
};

/// Samples with prompt `[0]`, ending token 3, after `generated`.
fn choose(params: &SamplingParams, logits: &[f32], generated: &[u32]) -> Result<u32, SampleError> {
    let mut sampler = Sampler::new(params.clone(), &[0], vec![3]);
    generated.iter().for_each(|token| sampler.observe(*token));
    sampler.sample(&mut logits.to_vec()).map(|choice| choice.token)
}

/// All tokens that 400 seeds draw.
fn support(params: &SamplingParams, logits: &[f32]) -> Vec<u32> {
    let draw = |seed| choose(&SamplingParams { seed, ..params.clone() }, logits, &[]).expect("finite logits");
    let mut tokens: Vec<u32> = (0..400).map(draw).collect();
    tokens.sort_unstable();
    tokens.dedup();
    tokens
}

#[test]
fn greedy_takes_the_lowest_of_the_likeliest() {
    assert_eq!(choose(&GREEDY, &[1.0, 3.0, 3.0, 2.0], &[]), Ok(1));
    let mut long = vec![0.0; 100];
    (long[97], long[41]) = (5.0, 5.0);
    assert_eq!(choose(&GREEDY, &long, &[]), Ok(41));
    assert_eq!(choose(&SamplingParams { temperature: 9e-6, ..GREEDY }, &long, &[]), Ok(41));
}

#[test]
fn penalties_bias_and_endings() {
    let logits = [4.0, 3.5, -1.0, 3.0];
    let cases = [
        ("none", GREEDY, vec![], 0),
        ("repetition counts the prompt", SamplingParams { repetition_penalty: 2.0, ..GREEDY }, vec![], 1),
        ("repetition counts the output", SamplingParams { repetition_penalty: 2.0, ..GREEDY }, vec![1], 3),
        ("presence leaves the prompt alone", SamplingParams { presence_penalty: 2.0, ..GREEDY }, vec![], 0),
        ("presence counts once", SamplingParams { presence_penalty: 0.6, ..GREEDY }, vec![0, 0], 1),
        ("presence too small", SamplingParams { presence_penalty: 0.4, ..GREEDY }, vec![0, 0, 0], 0),
        ("frequency counts each", SamplingParams { frequency_penalty: 0.3, ..GREEDY }, vec![0, 0], 1),
        ("frequency too small", SamplingParams { frequency_penalty: 0.3, ..GREEDY }, vec![0], 0),
        ("bias", SamplingParams { logit_bias: vec![(2, 9.0)], ..GREEDY }, vec![], 2),
        ("bias beyond the vocabulary", SamplingParams { logit_bias: vec![(99, 9.0)], ..GREEDY }, vec![], 0),
    ];
    for (name, params, generated, expected) in cases {
        assert_eq!(choose(&params, &logits, &generated), Ok(expected), "{name}");
    }
}

#[test]
fn an_ending_token_is_impossible_before_min_tokens() {
    let params = SamplingParams { min_tokens: 2, ..GREEDY };
    let logits = [0.0, 1.0, 2.0, 9.0];
    assert_eq!(choose(&params, &logits, &[]), Ok(2));
    assert_eq!(choose(&params, &logits, &[2]), Ok(2));
    assert_eq!(choose(&params, &logits, &[2, 2]), Ok(3));
    let forced = SamplingParams { temperature: 1.0, ..params };
    assert!(!support(&forced, &logits).contains(&3));
}

#[test]
fn filters_keep_what_they_should() {
    // Probabilities 0.5, 0.25, 0.125, 0.125 at temperature 1.
    let logits: Vec<f32> = [0.5_f32, 0.25, 0.125, 0.125].iter().map(|p| p.ln()).collect();
    let base = SamplingParams { temperature: 1.0, ..GREEDY };
    let cases = [
        ("all", base.clone(), vec![0, 1, 2, 3]),
        ("top_k 1", SamplingParams { top_k: Some(1), ..base.clone() }, vec![0]),
        (
            "top_k 3 keeps the lower of equals",
            SamplingParams { top_k: Some(3), ..base.clone() },
            vec![0, 1, 2],
        ),
        ("top_k beyond the vocabulary", SamplingParams { top_k: Some(9), ..base.clone() }, vec![0, 1, 2, 3]),
        ("top_p 0.4", SamplingParams { top_p: 0.4, ..base.clone() }, vec![0]),
        ("top_p 0.7", SamplingParams { top_p: 0.7, ..base.clone() }, vec![0, 1]),
        ("top_p 0.8", SamplingParams { top_p: 0.8, ..base.clone() }, vec![0, 1, 2]),
        // After top_k 2 the rest is 2/3, 1/3.
        ("top_k then top_p", SamplingParams { top_k: Some(2), top_p: 0.6, ..base.clone() }, vec![0]),
        ("min_p 0.4", SamplingParams { min_p: 0.4, ..base.clone() }, vec![0, 1]),
        ("min_p 1", SamplingParams { min_p: 1.0, ..base.clone() }, vec![0]),
        ("min_p with top_p", SamplingParams { min_p: 0.4, top_p: 0.99, ..base.clone() }, vec![0, 1]),
        ("cold", SamplingParams { temperature: 0.02, ..base.clone() }, vec![0]),
    ];
    for (name, params, expected) in cases {
        assert_eq!(support(&params, &logits), expected, "{name}");
    }
}

#[test]
fn draws_follow_the_distribution() {
    let logits: Vec<f32> = [0.6_f32, 0.3, 0.1].iter().map(|p| p.ln()).collect();
    let mut counts = [0_u32; 3];
    for seed in 0..20_000 {
        let params = SamplingParams { temperature: 1.0, seed, ..GREEDY };
        counts[choose(&params, &logits, &[]).expect("finite logits") as usize] += 1;
    }
    for (count, expected) in counts.iter().zip([12_000_i64, 6_000, 2_000]) {
        assert!((i64::from(*count) - expected).abs() < 300, "{counts:?}");
    }
}

#[test]
fn a_flat_vocabulary_goes_through_the_nucleus() {
    let logits = vec![0.0; 50_000];
    let params = SamplingParams { temperature: 1.0, top_p: 0.01, ..GREEDY };
    assert!(support(&params, &logits).iter().all(|token| *token < 500));
}

#[test]
fn same_seed_same_draw_and_positions_differ() {
    let logits = vec![0.0; 1000];
    let params = SamplingParams { temperature: 1.0, seed: 7, ..GREEDY };
    let draws: Vec<_> = (0..20).map(|n| choose(&params, &logits, &vec![1; n])).collect();
    let again: Vec<_> = (0..20).map(|n| choose(&params, &logits, &vec![1; n])).collect();
    assert_eq!(draws, again);
    let mut distinct: Vec<_> = draws.iter().flatten().collect();
    distinct.sort_unstable();
    distinct.dedup();
    assert!(distinct.len() > 15, "{distinct:?}");
}

#[test]
fn logprobs_are_of_the_raw_distribution() {
    let logits: Vec<f32> = [0.5_f32, 0.25, 0.125, 0.125].iter().map(|p| p.ln()).collect();
    let params =
        SamplingParams { logit_bias: vec![(2, 50.0)], logprobs: Some(2), temperature: 0.7, ..GREEDY };
    let choice = Sampler::new(params, &[0], vec![]).sample(&mut logits.clone()).expect("finite logits");
    let report = choice.logprob.expect("asked for");
    let near = |a: f32, b: f32| (a - b).abs() < 1e-5;
    assert_eq!((choice.token, report.token), (2, 2));
    assert!(near(report.logprob, 0.125_f32.ln()));
    assert_eq!(report.top.iter().map(|top| top.0).collect::<Vec<_>>(), [0, 1]);
    assert!(near(report.top[0].1, 0.5_f32.ln()) && near(report.top[1].1, 0.25_f32.ln()));
    let bare = SamplingParams { logprobs: Some(0), ..GREEDY };
    let choice = Sampler::new(bare, &[0], vec![]).sample(&mut logits.clone()).expect("finite logits");
    assert_eq!(choice.logprob.map(|report| report.top), Some(vec![]));
}

#[test]
fn bad_logits_are_errors() {
    let params = SamplingParams { temperature: 1.0, ..GREEDY };
    for params in [GREEDY, params] {
        assert_eq!(choose(&params, &[0.0, f32::NAN], &[]), Err(SampleError::NotFinite));
        assert_eq!(choose(&params, &[0.0, f32::INFINITY], &[]), Err(SampleError::NotFinite));
        assert_eq!(choose(&params, &[f32::NEG_INFINITY; 40], &[]), Err(SampleError::Nothing));
        assert_eq!(choose(&params, &[f32::NEG_INFINITY, 0.0], &[]), Ok(1));
    }
}

/// How often each of the 4 ways to go on is chosen by 4,000 seeds, where the grammar leaves some tokens.
fn shares(params: &SamplingParams, logits: &[f32], pattern: &str, prepares: bool) -> HashMap<u32, u32> {
    let compiler = GrammarCompiler::new(testing::tokenizer(), GrammarLimits::default());
    let grammar = compiler.compile(&GrammarSource::Regex(pattern.to_owned())).expect("the pattern compiles");
    let mut shares = HashMap::new();
    for seed in 0..4_000 {
        let params = SamplingParams { seed, ..params.clone() };
        let constraint = grammar.begin(vec![testing::END_OF_TEXT]);
        let mut sampler =
            Sampler::new(params, &[0], vec![testing::END_OF_TEXT]).constrained(Some(constraint));
        if prepares {
            sampler.prepare();
        }
        let choice = sampler.sample(&mut logits.to_vec()).expect("a token");
        *shares.entry(choice.token).or_default() += 1;
    }
    shares
}

#[test]
fn a_grammar_leaves_the_chances_of_what_it_allows() {
    let mut logits = vec![f32::NEG_INFINITY; testing::VOCAB];
    // Of 16 parts, half is for what is refused.
    for (byte, part) in [(b'a', 6f32), (b'b', 2.0), (b'c', 5.0), (b'd', 3.0)] {
        logits[usize::from(byte)] = part.ln();
    }
    let free = SamplingParams { temperature: 1.0, ..GREEDY };
    let found = shares(&free, &logits, "[abxyz]", false);
    let share = f64::from(found[&u32::from(b'a')]) / 4_000.0;
    // 3/4; five deviations of 4,000 draws are 0.034.
    assert!((share - 0.75).abs() < 0.034 && found.len() == 2, "{found:?}");
    // A mask that is ready early changes nothing.
    assert_eq!(shares(&free, &logits, "[abxyz]", true), found);
    // The likeliest that is allowed.
    assert_eq!(shares(&GREEDY, &logits, "[bdx]", false), HashMap::from([(u32::from(b'd'), 4_000)]));
    // A filter that leaves nothing of what is allowed does not end the sequence.
    let narrow = SamplingParams { top_k: Some(1), ..free };
    assert_eq!(shares(&narrow, &logits, "[bcx]", false), HashMap::from([(u32::from(b'c'), 4_000)]));
}
