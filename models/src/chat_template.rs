//! Chat templates: from messages to one text, with the caller's bytes marked.
//!
//! A template is code from a model file. It runs without a loader, with a bounded number of instructions, a bounded
//! recursion and a bounded output, and everything it can do to us is an error. What callers wrote is wrapped in
//! markers before rendering; the markers leave the output again and say which bytes are the callers'.

mod conversation;
mod marks;
mod methods;

use std::io;
use std::ops::Range;

use minijinja::value::{Kwargs, Value};
use minijinja::{Environment, Error, ErrorKind, context};

use crate::dialect::{Dialect, THINK};
use marks::Marks;

/// Instructions one rendering may take. Usual templates need 30 to 200 a message, so this is good for thousands of
/// messages, and runs out within some tens of milliseconds.
pub const FUEL: u64 = 1_000_000;
/// Longest template source in bytes; the longest known ones are about 20 KiB.
pub const MAX_SOURCE_BYTES: usize = 256 << 10;
/// Nested blocks and macro calls; small enough for the stack of any thread.
pub const MAX_RECURSION: usize = 100;
/// Bytes a template may add to its messages, and how often it may repeat them.
const MAX_ADDED_BYTES: usize = 1 << 20;
const MAX_REPEATS: usize = 4;
/// Longest role name.
const MAX_ROLE_BYTES: usize = 32;
/// Widest indentation of JSON that a template may ask for.
const MAX_INDENT: usize = 16;
const NAME: &str = "chat";

/// One message of a conversation.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ChatMessage {
    /// Who speaks: lower-case ASCII letters.
    pub role: String,
    /// What was said.
    pub content: String,
    /// A name for the speaker.
    pub name: Option<String>,
    /// What the model thought before it answered.
    pub reasoning: Option<String>,
    /// Calls the model made in this message.
    pub tool_calls: Vec<ToolCall>,
    /// The call that this message, of role `tool`, answers.
    pub tool_call_id: Option<String>,
}

/// A call of a tool, made by a model.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ToolCall {
    /// Names the call in its answer.
    pub id: String,
    /// The tool's name.
    pub name: String,
    /// Its arguments, a JSON text.
    pub arguments: String,
}

/// A tool that a model may call.
#[derive(Debug, Clone, PartialEq)]
pub struct Tool {
    /// Letters, digits, `_` and `-`.
    pub name: String,
    /// What it is good for.
    pub description: Option<String>,
    /// JSON schema of its arguments, an object.
    pub parameters: serde_json::Value,
}

/// What a chat template turns into a prompt.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Conversation {
    /// What was said, oldest first.
    pub messages: Vec<ChatMessage>,
    /// What the model may call.
    pub tools: Vec<Tool>,
}

/// A rendered conversation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prompt {
    /// The whole text.
    pub text: String,
    /// Byte ranges of `text` that callers wrote, in order.
    pub user_ranges: Vec<Range<usize>>,
}

/// Why a template or a conversation was refused.
#[derive(Debug, thiserror::Error)]
pub enum TemplateError {
    /// The template cannot be compiled.
    #[error("the chat template is invalid: {0}")]
    Compile(String),
    /// The template itself refuses the conversation.
    #[error("the chat template refuses the conversation: {0}")]
    Refused(String),
    /// The template took more instructions or wrote more than it may.
    #[error("the chat template exceeds its limit of {limit} {what}")]
    Limit {
        /// What was exceeded.
        what: &'static str,
        /// The limit.
        limit: usize,
    },
    /// A role that no template can mean.
    #[error("role {0:?} is not 1 to {MAX_ROLE_BYTES} lower-case letters")]
    Role(String),
    /// The template failed.
    #[error("the chat template failed: {0}")]
    Render(String),
}

/// A compiled template.
pub struct ChatTemplate {
    environment: Environment<'static>,
    bos: String,
    eos: String,
    dialect: Dialect,
    /// It has a place for tools.
    knows_tools: bool,
}

/// What `raise_exception` leaves in the error chain.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Raised(String);

impl ChatTemplate {
    /// Compiles `source`; `bos` and `eos` are what it knows as `bos_token` and `eos_token`.
    ///
    /// # Errors
    /// A syntax error, or a source that is too long.
    pub fn new(source: &str, bos: &str, eos: &str) -> Result<Self, TemplateError> {
        if source.len() > MAX_SOURCE_BYTES {
            return Err(TemplateError::Limit { what: "source bytes", limit: MAX_SOURCE_BYTES });
        }
        let mut environment = Environment::new();
        environment.set_fuel(Some(FUEL));
        environment.set_recursion_limit(MAX_RECURSION);
        // As the reference implementation of these templates renders them.
        environment.set_trim_blocks(true);
        environment.set_lstrip_blocks(true);
        environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
        environment.set_unknown_method_callback(methods::call);
        environment.add_function("raise_exception", |message: String| -> Result<Value, Error> {
            Err(Error::new(ErrorKind::InvalidOperation, "refused").with_source(Raised(message)))
        });
        environment.add_filter("tojson", |value: Value, options: Kwargs| -> Result<Value, Error> {
            let indent: Option<usize> = options.get("indent")?;
            // Others (`ensure_ascii`, `sort_keys`) are as templates of models want them.
            Ok(Value::from_safe_string(conversation::to_json(
                &value,
                indent.map(|width| width.min(MAX_INDENT)),
            )))
        });
        environment
            .add_template_owned(NAME, source.to_owned())
            .map_err(|e| TemplateError::Compile(e.to_string()))?;
        let mut template = Self {
            environment,
            bos: bos.to_owned(),
            eos: eos.to_owned(),
            dialect: Dialect::of_template(source),
            knows_tools: source.contains("tools"),
        };
        if template.dialect.thinks {
            let opening = template.render(&[Self::hello()], true);
            template.dialect.opens_thinking =
                opening.is_ok_and(|prompt| prompt.text.trim_end().ends_with(THINK.0));
        }
        Ok(template)
    }

    /// How the model writes calls and thinking, as far as its template tells.
    pub fn dialect(&self) -> Dialect {
        self.dialect
    }

    /// Says it better than the template does.
    pub(crate) fn set_dialect(&mut self, dialect: Dialect) {
        self.dialect = dialect;
    }

    fn hello() -> ChatMessage {
        ChatMessage { role: "user".to_owned(), content: "hello".to_owned(), ..ChatMessage::default() }
    }

    /// Renders a conversation of one short message, so that a hostile or broken template is found when it is
    /// loaded and not by the first caller. A template may refuse that conversation.
    ///
    /// # Errors
    /// The template fails or exceeds its limits.
    pub fn probe(&self) -> Result<(), TemplateError> {
        match self.render(&[Self::hello()], true) {
            Ok(_) | Err(TemplateError::Refused(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Renders `messages`, with the opening of an answer at the end if `add_generation_prompt`.
    ///
    /// # Errors
    /// See [`TemplateError`].
    pub fn render(
        &self,
        messages: &[ChatMessage],
        add_generation_prompt: bool,
    ) -> Result<Prompt, TemplateError> {
        let conversation = Conversation { messages: messages.to_vec(), tools: Vec::new() };
        self.render_conversation(&conversation, add_generation_prompt)
    }

    /// Renders messages and tools. A template without a place for tools gets them described in the system message.
    ///
    /// # Errors
    /// See [`TemplateError`].
    pub fn render_conversation(
        &self,
        conversation: &Conversation,
        add_generation_prompt: bool,
    ) -> Result<Prompt, TemplateError> {
        let role_ok =
            |r: &str| (1..=MAX_ROLE_BYTES).contains(&r.len()) && r.bytes().all(|b| b.is_ascii_lowercase());
        if let Some(message) = conversation.messages.iter().find(|m| !role_ok(&m.role)) {
            return Err(TemplateError::Role(message.role.clone()));
        }
        let plain;
        let mut conversation = conversation;
        if !self.knows_tools {
            plain = conversation::without_tools(conversation);
            conversation = &plain;
        }
        let mut fields: Vec<String> = Vec::new();
        conversation::values(conversation, &mut |text| {
            fields.push(text.to_owned());
            String::new()
        });
        let fields: Vec<&str> = fields.iter().map(String::as_str).collect();
        let marks = Marks::new(&fields);
        let mut next = 0..;
        let (messages, tools) = conversation::values(conversation, &mut |_| {
            marks.wrap(next.next().expect("the range has no end"))
        });
        let context = context! {
            messages => messages,
            add_generation_prompt => add_generation_prompt,
            bos_token => self.bos,
            eos_token => self.eos,
            tools => tools,
            documents => Value::from(()),
        };
        let user_bytes: usize = fields.iter().map(|f| f.len() + 2 * Marks::MAX_BYTES).sum();
        let limit = user_bytes.saturating_mul(MAX_REPEATS).saturating_add(MAX_ADDED_BYTES);
        Ok(marks.unwrap(&self.run(context, limit)?))
    }

    fn run(&self, context: Value, limit: usize) -> Result<String, TemplateError> {
        let template =
            self.environment.get_template(NAME).map_err(|e| TemplateError::Render(e.to_string()))?;
        let mut output = Bounded { bytes: Vec::new(), limit };
        let result = template.render_captured_to(context, &mut output).map(|_| ());
        if output.limit == 0 {
            return Err(TemplateError::Limit { what: "output bytes", limit });
        }
        result.map_err(|e| classify(&e))?;
        String::from_utf8(output.bytes).map_err(|e| TemplateError::Render(e.to_string()))
    }
}

fn classify(error: &Error) -> TemplateError {
    if error.kind() == ErrorKind::OutOfFuel {
        return TemplateError::Limit {
            what: "instructions",
            limit: usize::try_from(FUEL).unwrap_or(usize::MAX),
        };
    }
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(current) = cause {
        if let Some(Raised(message)) = current.downcast_ref() {
            return TemplateError::Refused(message.clone());
        }
        cause = current.source();
    }
    TemplateError::Render(error.to_string())
}

/// Output that fails once the limit is passed; `limit` is then 0.
struct Bounded {
    bytes: Vec<u8>,
    limit: usize,
}

impl io::Write for Bounded {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        if self.bytes.len() + data.len() > self.limit {
            self.limit = 0;
            return Err(io::Error::other("output limit exceeded"));
        }
        self.bytes.extend_from_slice(data);
        Ok(data.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
