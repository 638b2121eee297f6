//! Items as the engine's conversation.

use engine::Engine;
use models::{ChatMessage, Conversation, ToolCall};

use super::items::{Item, Output, joined};
use crate::api::error::{ApiError, ApiResult, Code};
use crate::api::fields::invalid;
use crate::api::generation::Generation;
use crate::serving::{AdmitError, PromptInput};

/// A call and its answer belong together. `own` are the request's items, `before` those that it goes on from.
pub(super) fn check_calls(before: &[Item], own: &[Item]) -> ApiResult<()> {
    let mut calls: Vec<&str> = before.iter().filter_map(call_id).collect();
    for (i, item) in own.iter().enumerate() {
        match item {
            Item::FunctionCallOutput { call_id, .. } if !calls.contains(&call_id.as_str()) => {
                let path = format!("input[{i}].call_id");
                return Err(invalid(&path, "no earlier 'function_call' has this call_id"));
            }
            item => calls.extend(self::call_id(item)),
        }
    }
    Ok(())
}

fn call_id(item: &Item) -> Option<&str> {
    match item {
        Item::FunctionCall { call_id, .. } => Some(call_id),
        _ => None,
    }
}

/// The conversation's messages.
pub(super) fn messages(instructions: Option<&str>, items: &[Item]) -> Vec<ChatMessage> {
    let mut messages: Vec<ChatMessage> = Vec::with_capacity(items.len() + 1);
    messages.extend(instructions.map(|text| message("system", text.to_owned())));
    let mut thought = None;
    for item in items {
        match item {
            Item::Reasoning { summary, content, .. } => {
                let text = if content.is_empty() { joined(summary) } else { joined(content) };
                thought.get_or_insert_with(String::new).push_str(&text);
            }
            Item::Message { role, content, .. } => {
                let role = if role == "developer" { "system" } else { role };
                let reasoning = if role == "assistant" { thought.take() } else { None };
                messages.push(ChatMessage { reasoning, ..message(role, joined(content)) });
            }
            Item::FunctionCall { call_id, name, arguments, .. } => {
                // One turn of the model may think, speak and call, in this order.
                if messages.last().is_none_or(|last| last.role != "assistant") || thought.is_some() {
                    messages.push(ChatMessage {
                        reasoning: thought.take(),
                        ..message("assistant", String::new())
                    });
                }
                let call = ToolCall { id: call_id.clone(), name: name.clone(), arguments: arguments.clone() };
                if let Some(last) = messages.last_mut() {
                    last.tool_calls.push(call);
                }
            }
            Item::FunctionCallOutput { call_id, output, .. } => {
                let text = match output {
                    Output::Text(text) => text.clone(),
                    Output::Parts(parts) => joined(parts),
                };
                messages.push(ChatMessage { tool_call_id: Some(call_id.clone()), ..message("tool", text) });
            }
            Item::Compaction { summary, .. } => {
                let text = format!("Summary of our conversation so far:\n{summary}");
                messages.push(ChatMessage { reasoning: thought.take(), ..message("assistant", text) });
            }
        }
    }
    // Thoughts that were cut short before anything was said.
    if thought.is_some() {
        messages.push(ChatMessage { reasoning: thought, ..message("assistant", String::new()) });
    }
    messages
}

fn message(role: &str, content: String) -> ChatMessage {
    ChatMessage { role: role.to_owned(), content, ..ChatMessage::default() }
}

/// Sets the prompt of `generation`. With `truncate` the oldest items are left out until it fits.
pub(super) async fn set_prompt(
    generation: &mut Generation,
    engine: &Engine,
    instructions: Option<&str>,
    items: &[Item],
    truncate: bool,
) -> ApiResult<()> {
    let prompt = |left_out: usize| {
        let messages = messages(instructions, rest(items, left_out));
        vec![PromptInput::Chat(Conversation { messages, ..Conversation::default() })]
    };
    generation.prompts = prompt(0);
    if items.is_empty() {
        let text = "Invalid 'input': there must be at least one item.";
        return Err(ApiError::param(Code::EmptyPrompt, "input", text));
    }
    if !truncate {
        return Ok(());
    }
    // The fewest items left out with which it fits; the last one always stays.
    let (mut low, mut high) = (0, items.len() - 1);
    while low < high {
        let middle = usize::midpoint(low, high);
        generation.prompts = prompt(middle);
        if fits(generation, engine).await? { high = middle } else { low = middle + 1 }
    }
    generation.prompts = prompt(low);
    Ok(())
}

/// All but the first `left_out` items, nor answers to calls among them.
fn rest(items: &[Item], left_out: usize) -> &[Item] {
    let mut rest = &items[left_out..];
    while let [Item::FunctionCallOutput { .. }, others @ ..] = rest
        && left_out > 0
        && !others.is_empty()
    {
        rest = others;
    }
    rest
}

async fn fits(generation: &Generation, engine: &Engine) -> ApiResult<bool> {
    let answer = generation.max_tokens.unwrap_or(1) as usize;
    match generation.measure(engine).await {
        Ok(tokens) => Ok(tokens + answer <= engine.context_len()),
        Err(AdmitError::ContextLength { .. }) => Ok(false),
        Err(other) => Err(other.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::items::{Content, Status};
    use super::*;

    fn said(role: &str, text: &str) -> Item {
        let content = vec![Content::Input { text: text.to_owned() }];
        Item::Message {
            id: String::new(),
            status: Status::Completed,
            role: role.to_owned(),
            content,
            phase: None,
        }
    }

    fn call(id: &str) -> Item {
        Item::FunctionCall {
            id: String::new(),
            status: Status::Completed,
            call_id: id.to_owned(),
            name: "f".to_owned(),
            arguments: "{}".to_owned(),
        }
    }

    fn answer(id: &str) -> Item {
        let output = Output::Text("r".to_owned());
        Item::FunctionCallOutput {
            id: String::new(),
            status: Status::Completed,
            call_id: id.to_owned(),
            output,
        }
    }

    fn thought(text: &str) -> Item {
        let content = vec![Content::Reasoning { text: text.to_owned() }];
        Item::Reasoning { id: String::new(), status: Status::Completed, summary: Vec::new(), content }
    }

    #[test]
    fn turns_of_the_model_are_put_together() {
        let items = [
            said("developer", "d"),
            said("user", "u"),
            thought("t"),
            said("assistant", "a"),
            call("c1"),
            call("c2"),
            answer("c1"),
            answer("c2"),
            thought("s"),
            call("c3"),
        ];
        let messages = messages(Some("i"), &items);
        let shown: Vec<_> = messages
            .iter()
            .map(|m| {
                format!(
                    "{} {} {} {}",
                    m.role,
                    m.content,
                    m.reasoning.as_deref().unwrap_or("-"),
                    m.tool_calls.len()
                )
            })
            .collect();
        assert_eq!(
            shown,
            [
                "system i - 0",
                "system d - 0",
                "user u - 0",
                "assistant a t 2",
                "tool r - 0",
                "tool r - 0",
                "assistant  s 1"
            ]
        );
    }

    #[test]
    fn answers_need_their_calls() {
        assert!(check_calls(&[call("a")], &[answer("a"), call("b"), answer("b")]).is_ok());
        let error = check_calls(&[], &[said("user", "u"), answer("a"), call("a")]).unwrap_err();
        assert_eq!(error.param.as_deref(), Some("input[1].call_id"));
    }

    #[test]
    fn an_answer_goes_with_its_call() {
        let items = [said("user", "u"), call("a"), answer("a"), answer("b"), said("user", "v")];
        assert_eq!(rest(&items, 0).len(), 5);
        assert_eq!(rest(&items, 1).len(), 4);
        assert_eq!(rest(&items, 2), &items[4..]);
        assert_eq!(rest(&items[..3], 2).len(), 1);
    }
}
