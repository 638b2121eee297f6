//! Text to tokens: short prompts at once, long ones on a blocking thread, hopeless ones not at all.

use engine::Engine;
use models::{Conversation, TemplateError, Tokenizer};

use super::AdmitError;

/// Encoding or searching this many bytes takes well under a millisecond.
const INLINE_BYTES: usize = 4 << 10;

/// Works on `bytes` bytes of text: at once where they are few, else not on a thread that serves connections.
pub async fn off_thread<T: Send + 'static>(
    bytes: usize,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, AdmitError> {
    if bytes <= INLINE_BYTES {
        return Ok(work());
    }
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|e| AdmitError::Internal(format!("work on a text failed: {e}")))
}

/// A prompt as the caller gave it.
#[derive(Clone, Debug, PartialEq)]
pub enum PromptInput {
    /// A conversation for the model's template.
    Chat(Conversation),
    /// Plain text.
    Text(String),
    /// Token ids.
    Tokens(Vec<u32>),
}

impl PromptInput {
    /// The request's field it came in.
    pub fn field(&self) -> &'static str {
        match self {
            PromptInput::Chat(_) => "messages",
            PromptInput::Text(_) | PromptInput::Tokens(_) => "prompt",
        }
    }

    /// Everything it says, one text after the other.
    pub fn text(&self, tokenizer: &Tokenizer) -> String {
        match self {
            PromptInput::Chat(chat) => {
                let mut texts: Vec<String> = chat.tools.iter().map(|tool| format!("{tool:?}")).collect();
                for message in &chat.messages {
                    texts.push(message.content.clone());
                    texts.extend(message.reasoning.clone());
                    texts.extend(message.tool_calls.iter().map(|call| call.arguments.clone()));
                }
                texts.join("\n")
            }
            PromptInput::Text(text) => text.clone(),
            PromptInput::Tokens(tokens) => {
                let known = tokens.iter().filter(|&&token| (token as usize) < tokenizer.vocab_size());
                let bytes: Vec<u8> = known.flat_map(|&token| tokenizer.token_bytes(token)).copied().collect();
                String::from_utf8_lossy(&bytes).into_owned()
            }
        }
    }

    fn text_bytes(&self) -> usize {
        match self {
            PromptInput::Chat(chat) => chat.messages.iter().map(|message| message.content.len()).sum(),
            PromptInput::Text(text) => text.len(),
            PromptInput::Tokens(_) => 0,
        }
    }

    /// Whether schemas and calls of unknown size belong to it.
    fn has_tools(&self) -> bool {
        let calls = |chat: &Conversation| chat.messages.iter().any(|message| !message.tool_calls.is_empty());
        matches!(self, PromptInput::Chat(chat) if !chat.tools.is_empty() || calls(chat))
    }

    /// The tokens, fewer than the model's context.
    pub async fn tokenise(self, engine: &Engine) -> Result<Vec<u32>, AdmitError> {
        let context = engine.context_len();
        let (field, bytes) = (self.field(), self.text_bytes());
        let size = if self.has_tools() { usize::MAX } else { bytes };
        let at_least = engine.tokenizer().min_tokens(bytes);
        if at_least >= context {
            return Err(AdmitError::ContextLength { prompt: at_least, context, exact: false, field });
        }
        let own = engine.clone();
        let tokens = off_thread(size, move || self.encode(&own)).await??;
        if tokens.len() >= context {
            return Err(AdmitError::ContextLength { prompt: tokens.len(), context, exact: true, field });
        }
        Ok(tokens)
    }

    fn encode(self, engine: &Engine) -> Result<Vec<u32>, AdmitError> {
        let tokenizer = engine.tokenizer();
        let internal = |e: models::TokenizeError| AdmitError::Internal(e.to_string());
        match self {
            PromptInput::Chat(chat) => {
                let prompt = engine.template().render_conversation(&chat, true).map_err(|e| match e {
                    TemplateError::Refused(reason) => AdmitError::Conversation(reason),
                    other => AdmitError::Conversation(other.to_string()),
                })?;
                tokenizer.encode_prompt(&prompt).map_err(internal)
            }
            PromptInput::Text(text) => {
                let mut tokens: Vec<u32> = tokenizer.bos_id().into_iter().collect();
                tokens.extend(tokenizer.encode_text(&text).map_err(internal)?);
                if tokens.is_empty() { Err(AdmitError::EmptyPrompt) } else { Ok(tokens) }
            }
            PromptInput::Tokens(tokens) => {
                let vocab = tokenizer.vocab_size();
                match tokens.iter().find(|&&token| token as usize >= vocab) {
                    Some(&token) => Err(AdmitError::UnknownToken { token, vocab }),
                    None => Ok(tokens),
                }
            }
        }
    }
}
