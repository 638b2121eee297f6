//! Reads a call, a JSON object, as it comes: its name, and its arguments byte by byte.

/// What a call tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Told {
    Name(String),
    /// More of the arguments' text.
    Arguments(String),
}

/// How a reader takes a character.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// It is part of the call.
    More,
    /// It was the call's last.
    Done,
    /// This is no call.
    Wrong,
}

/// Where in the object the reader is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
enum At {
    #[default]
    Start,
    /// Before a key; a closing brace may come too.
    Key,
    InKey,
    Colon,
    /// Before the value of the last key.
    Value,
    InValue,
    /// After a value.
    Comma,
}

/// Reader of one object.
#[derive(Clone, Debug, Default)]
pub(super) struct CallReader {
    at: At,
    key: String,
    value: Value,
    named: bool,
    /// Arguments that came before the name.
    early: String,
    told: Vec<Told>,
}

/// The value that is being read.
#[derive(Clone, Debug, Default)]
struct Value {
    text: String,
    depth: usize,
    in_string: bool,
    escaped: bool,
}

impl Value {
    /// Takes a character that belongs to the value. True when the value ends with it.
    fn push(&mut self, c: char) -> bool {
        self.text.push(c);
        if self.in_string {
            if self.escaped {
                self.escaped = false;
            } else if c == '\\' {
                self.escaped = true;
            } else if c == '"' {
                self.in_string = false;
            }
        } else {
            match c {
                '"' => self.in_string = true,
                '{' | '[' => self.depth += 1,
                '}' | ']' => self.depth = self.depth.saturating_sub(1),
                _ => return false,
            }
        }
        self.depth == 0 && !self.in_string
    }
}

impl CallReader {
    /// What became known since the last call of this.
    pub(super) fn told(&mut self) -> Vec<Told> {
        std::mem::take(&mut self.told)
    }

    /// Whether its name is known.
    pub(super) fn is_named(&self) -> bool {
        self.named
    }

    /// Whether a value has just ended.
    pub(super) fn is_between(&self) -> bool {
        self.at == At::Comma
    }

    /// Takes the next character.
    pub(super) fn push(&mut self, c: char) -> Step {
        let blank = c.is_ascii_whitespace();
        match self.at {
            At::Start | At::Key | At::Colon | At::Value | At::Comma if blank => {}
            At::Start if c == '{' => self.at = At::Key,
            At::Key if c == '"' => {
                (self.key, self.value) = (String::new(), Value::default());
                self.value.push(c);
                self.at = At::InKey;
            }
            At::Key | At::Comma if c == '}' => return if self.named { Step::Done } else { Step::Wrong },
            At::InKey => {
                if self.value.push(c) {
                    let Ok(key) = serde_json::from_str(&self.value.text) else { return Step::Wrong };
                    self.key = key;
                    self.at = At::Colon;
                }
            }
            At::Colon if c == ':' => (self.at, self.value) = (At::Value, Value::default()),
            At::Value => {
                self.at = At::InValue;
                return self.value(c);
            }
            At::InValue => return self.value(c),
            At::Comma if c == ',' => self.at = At::Key,
            At::Start | At::Key | At::Colon | At::Comma => return Step::Wrong,
        }
        Step::More
    }

    fn value(&mut self, c: char) -> Step {
        let is_scalar = self.value.depth == 0 && !self.value.in_string && !matches!(c, '"' | '{' | '[');
        if is_scalar && (matches!(c, ',' | '}') || c.is_ascii_whitespace()) {
            if !self.end_value() {
                return Step::Wrong;
            }
            return self.push(c);
        }
        let ended = self.value.push(c);
        if self.is_arguments() && !self.value.text.starts_with('"') {
            self.argue(c);
        }
        if ended && !self.end_value() { Step::Wrong } else { Step::More }
    }

    fn is_arguments(&self) -> bool {
        matches!(self.key.as_str(), "arguments" | "parameters")
    }

    fn argue(&mut self, c: char) {
        match self.told.last_mut() {
            _ if !self.named => self.early.push(c),
            Some(Told::Arguments(text)) => text.push(c),
            _ => self.told.push(Told::Arguments(c.to_string())),
        }
    }

    /// False when the value cannot be one of a call.
    fn end_value(&mut self) -> bool {
        self.at = At::Comma;
        let text = std::mem::take(&mut self.value.text);
        if self.key == "name" && !self.named {
            let Ok(name) = serde_json::from_str(&text) else { return false };
            self.named = true;
            self.told.push(Told::Name(name));
            if !self.early.is_empty() {
                self.told.push(Told::Arguments(std::mem::take(&mut self.early)));
            }
        } else if self.is_arguments() && text.starts_with('"') {
            // Some models write the object as text.
            let Ok(inner) = serde_json::from_str::<String>(&text) else { return false };
            inner.chars().for_each(|c| self.argue(c));
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> (Vec<Told>, Option<Step>) {
        let mut reader = CallReader::default();
        let mut told: Vec<Told> = Vec::new();
        let mut last = None;
        for c in text.chars() {
            last = Some(reader.push(c));
            for new in reader.told() {
                match (told.last_mut(), new) {
                    (Some(Told::Arguments(text)), Told::Arguments(more)) => text.push_str(&more),
                    (_, new) => told.push(new),
                }
            }
            if last != Some(Step::More) {
                break;
            }
        }
        (told, last)
    }

    #[test]
    fn calls_of_all_shapes() {
        let whole = |name: &str, arguments: &str| {
            vec![Told::Name(name.to_owned()), Told::Arguments(arguments.to_owned())]
        };
        let cases = [
            (
                r#"{"name": "f", "arguments": {"a": "}\"{", "b": [1, {}]}}"#,
                whole("f", r#"{"a": "}\"{", "b": [1, {}]}"#),
            ),
            (r#" { "arguments" : {"x":1} , "name" : "g" } "#, whole("g", r#"{"x":1}"#)),
            (r#"{"id": 7, "type":"function","name":"h","parameters":{}}"#, whole("h", "{}")),
            (r#"{"name":"i","arguments":"{\"a\": 1}"}"#, whole("i", r#"{"a": 1}"#)),
            (r#"{"name":"j"}"#, vec![Told::Name("j".to_owned())]),
            (r#"{"x":[{"name":"no"}],"name":"k","arguments":null}"#, whole("k", "null")),
        ];
        for (text, expected) in cases {
            assert_eq!(read(text), (expected, Some(Step::Done)), "{text}");
        }
        for text in ["x", "{x", r#"{"a":1}"#, r#"{"name" 1"#, r#"{"name":1}"#, "[]", "{}"] {
            assert_eq!(read(text).1, Some(Step::Wrong), "{text}");
        }
        let (told, last) = read(r#"{"name":"f","arguments":{"cut"#);
        assert_eq!((told, last), (whole("f", r#"{"cut"#), Some(Step::More)));
    }
}
