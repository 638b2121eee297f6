//! Where generating models run.

use serde::{Deserialize, Serialize};

/// The value of `engine.device`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum DeviceChoice {
    /// The first CUDA device where there is one, else the CPU.
    #[default]
    Auto,
    /// This machine's cores.
    Cpu,
    /// The CUDA device of this number.
    Cuda(usize),
}

impl TryFrom<String> for DeviceChoice {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let number = |digits: &str| digits.parse().ok().filter(|index: &usize| index.to_string() == digits);
        match text.as_str() {
            "auto" => Ok(Self::Auto),
            "cpu" => Ok(Self::Cpu),
            other => other.strip_prefix("cuda:").and_then(number).map(Self::Cuda).ok_or_else(|| {
                format!("{other:?} must be \"auto\", \"cpu\" or \"cuda:\" and the device's number")
            }),
        }
    }
}

impl std::fmt::Display for DeviceChoice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(index) => write!(f, "cuda:{index}"),
        }
    }
}

impl From<DeviceChoice> for String {
    fn from(choice: DeviceChoice) -> Self {
        choice.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_they_are_written() {
        for (text, choice) in [
            ("auto", DeviceChoice::Auto),
            ("cpu", DeviceChoice::Cpu),
            ("cuda:0", DeviceChoice::Cuda(0)),
            ("cuda:12", DeviceChoice::Cuda(12)),
        ] {
            assert_eq!(DeviceChoice::try_from(text.to_owned()), Ok(choice));
            assert_eq!(String::from(choice), text);
        }
        for text in ["", "cuda", "cuda:", "cuda:-1", "cuda:01", "cuda:+1", "gpu", "CPU"] {
            let refused = DeviceChoice::try_from(text.to_owned()).expect_err("no such device");
            assert!(refused.contains("\"auto\", \"cpu\""), "{refused}");
        }
    }
}
