//! A generation on its way, told as pieces of output.

use engine::Finish;
use models::{OutputParser, Said};

use super::output::{Ending, Part, Piece};
use crate::api::scope::random;
use crate::guard::{Asked, Guard, Hook, Judgement, OutputGuard, Screened, Unjudged};
use crate::ledger::{EndReason, LedgerError};
use crate::receipts::Receipt as Signed;
use crate::serving::{Cause, InFlight, Receipt, Step};

/// What a generation that goes on has to tell.
#[derive(Debug)]
pub enum Progress {
    /// New output of a choice; its parts are not empty.
    Output(usize, Piece),
    /// A choice is complete. The piece holds what is left, often only tokens without text.
    Ended(usize, Piece, Ending),
    /// Nothing happened for a while.
    Idle,
    /// All choices are complete: [`settle`](Run::settle).
    Done,
    /// It cannot go on: [`cut`](Run::cut).
    Cut(Cause),
}

/// What the engine generated of a choice.
enum Generated {
    More(String),
    All(Finish),
    /// Nothing more, but what is held back may go out.
    Rest,
}

/// Where a choice stands once its text is told.
enum After {
    /// It goes on.
    More,
    /// It will be cut off.
    Cut,
    /// A rule ends it.
    Stopped,
    /// The engine ended it.
    Finished(Finish),
}

/// Text of a choice that waits for the operator's judge.
struct Window {
    hook: Hook,
    bytes: usize,
    /// What was judged last: the judge sees it again, so that nothing slips through between two windows.
    before: String,
    text: String,
}

/// A window that is being judged.
struct Judging {
    choice: usize,
    text: String,
    after: After,
    asked: Asked,
}

/// A generation that was admitted. Dropping it ends and bills it as a disconnect.
pub struct Run {
    flight: InFlight,
    /// Tokens of each choice that have nothing to show yet; they travel with its next piece.
    rests: Vec<Piece>,
    /// The screen of each choice, where there are content rules.
    screens: Vec<Option<OutputGuard>>,
    /// What each choice has not told yet, where a judge is asked.
    windows: Vec<Option<Window>>,
    judging: Option<Judging>,
    /// Why it cannot go on, and the choices that may still tell what they hold back.
    ending: Option<(Cause, Vec<usize>)>,
    /// What takes each choice apart; absent where everything is text.
    parsers: Vec<Option<OutputParser>>,
}

impl Run {
    pub(super) fn new(flight: InFlight, parsers: Vec<Option<OutputParser>>, guard: &Guard) -> Self {
        let rests = parsers.iter().map(|_| Piece::default()).collect();
        let window = || {
            let (hook, bytes) = guard.judge_of_output()?;
            Some(Window { hook, bytes, before: String::new(), text: String::new() })
        };
        let windows = parsers.iter().map(|_| window()).collect();
        let screens = vec![guard.output(); parsers.len()];
        Self { flight, rests, screens, windows, judging: None, ending: None, parsers }
    }

    /// Number of choices.
    pub fn choices(&self) -> usize {
        self.rests.len()
    }

    /// Limits, money and delivery of it.
    pub fn flight(&mut self) -> &mut InFlight {
        &mut self.flight
    }

    /// The next thing to tell. Cancel safe.
    pub async fn next(&mut self) -> Progress {
        loop {
            let told = if let Some(judging) = &mut self.judging {
                match self.flight.during(judging.asked.answer()).await {
                    Ok(judgement) => self.judged(judgement),
                    Err(Step::Cut(cause)) => Some(Progress::Cut(cause)),
                    Err(_) => Some(Progress::Idle),
                }
            } else if let Some((cause, choices)) = &mut self.ending {
                match choices.pop() {
                    Some(choice) => self.say(choice, Generated::Rest),
                    None => Some(Progress::Cut(cause.clone())),
                }
            } else {
                let step = self.flight.next().await;
                self.take(step)
            };
            if let Some(progress) = told {
                return progress;
            }
        }
    }

    fn take(&mut self, step: Step) -> Option<Progress> {
        match step {
            Step::Prompt(choice, logprobs) => {
                self.rests[choice].prompt.extend(logprobs);
                None
            }
            Step::Delta(choice, delta) => {
                let rest = &mut self.rests[choice];
                rest.tokens += delta.tokens;
                rest.logprobs.extend(delta.logprobs);
                self.say(choice, Generated::More(delta.text))
            }
            Step::Finished(choice, finish) => self.say(choice, Generated::All(finish)),
            Step::Idle => Some(Progress::Idle),
            Step::Done => Some(Progress::Done),
            // What a budget paid for is told, also what was held back.
            Step::Cut(cause @ Cause::Budget(_)) => {
                self.ending = Some((cause, self.flight.unfinished()));
                None
            }
            Step::Cut(cause) => Some(Progress::Cut(cause)),
        }
    }

    /// Screens what a choice says, and tells it or has it judged first.
    fn say(&mut self, choice: usize, said: Generated) -> Option<Progress> {
        let (text, mut after) = match said {
            Generated::More(text) => (Some(text), After::More),
            Generated::All(finish) => (None, After::Finished(finish)),
            Generated::Rest => (None, After::Cut),
        };
        let screened = match (&mut self.screens[choice], text) {
            (Some(screen), Some(text)) => screen.push(&text),
            (Some(screen), None) => screen.finish(),
            (None, text) => Screened { text: text.unwrap_or_default(), stop: false },
        };
        if screened.stop {
            after = After::Stopped;
        }
        let Some(window) = &mut self.windows[choice] else {
            return self.tell(choice, &screened.text, after);
        };
        window.text.push_str(&screened.text);
        if matches!(after, After::More) && window.text.len() < window.bytes {
            return None;
        }
        let text = std::mem::take(&mut window.text);
        if text.is_empty() {
            return self.tell(choice, "", after);
        }
        let before = std::mem::replace(&mut window.before, text.clone());
        let asked = window.hook.ask(before + &text);
        self.judging = Some(Judging { choice, text, after, asked });
        None
    }

    /// Tells the window that was judged, or ends its choice; without a judgement all must end.
    fn judged(&mut self, judgement: Result<Judgement, Unjudged>) -> Option<Progress> {
        let Judging { choice, text, after, .. } = self.judging.take()?;
        match judgement {
            Ok(judgement) if judgement.flagged => self.tell(choice, "", After::Stopped),
            Ok(_) => self.tell(choice, &text, after),
            Err(error) => Some(Progress::Cut(Cause::Unjudged(error))),
        }
    }

    /// Takes apart what a choice may tell.
    fn tell(&mut self, choice: usize, text: &str, after: After) -> Option<Progress> {
        let parts = &mut self.rests[choice].parts;
        match &mut self.parsers[choice] {
            Some(parser) => {
                parts.extend(parser.push(text).into_iter().map(part));
                if !matches!(after, After::More | After::Cut) {
                    parts.extend(parser.finish().into_iter().map(part));
                }
            }
            None if text.is_empty() => {}
            None => parts.push(Part::Text(text.to_owned())),
        }
        let ending = match after {
            After::More | After::Cut if parts.is_empty() => return None,
            After::More | After::Cut => {
                return Some(Progress::Output(choice, std::mem::take(&mut self.rests[choice])));
            }
            After::Stopped => {
                self.flight.close(choice);
                Ending::ContentFilter
            }
            After::Finished(finish) => {
                let called = self.parsers[choice].as_ref().is_some_and(|parser| parser.calls() > 0);
                Ending::of(&finish.reason, finish.stop_match, called)
            }
        };
        Some(Progress::Ended(choice, std::mem::take(&mut self.rests[choice]), ending))
    }

    /// Bills everything; when this returns, the bill is durable and its numbers may be told.
    pub async fn settle(&mut self, end: EndReason) -> Result<Receipt, LedgerError> {
        self.flight.settle(end).await
    }

    /// The signed receipt, once it is billed and where one is wanted.
    pub fn take_signed(&mut self) -> Option<Box<Signed>> {
        self.flight.take_signed()
    }

    /// Ends it before its time; what was handed over is billed.
    pub async fn cut(&mut self, cause: &Cause) {
        self.flight.cut(cause).await;
    }
}

fn part(said: Said) -> Part {
    match said {
        Said::Text(text) => Part::Text(text),
        Said::Reasoning(text) => Part::Reasoning(text),
        Said::CallStart { index, name } => Part::CallStart { index, id: call_id(), name },
        Said::Arguments { index, text } => Part::CallArguments { index, text },
    }
}

/// Nine letters and digits, which is what the strictest templates take when the call comes back.
fn call_id() -> String {
    const LETTERS: &[u8; 32] = b"abcdefghijkmnpqrstuvwxyz23456789";
    random::<9>().iter().map(|byte| char::from(LETTERS[usize::from(byte % 32)])).collect()
}
