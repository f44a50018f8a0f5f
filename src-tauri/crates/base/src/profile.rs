use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// The longest profile name that is accepted, in bytes: a machine's name is a DNS label.
const MAX_NAME: usize = 63;

/// The name of a minikube profile: minikube's own alphabet, safe as a file name and in a message.
///
/// Starts with an ASCII letter or digit, goes on with those and `_`, `.`, `-`; at most 63 bytes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String")]
pub struct ProfileName(String);

/// A text that is no profile name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "\"{}\" is not a minikube profile name: use letters, digits, '.', '_' and '-', begin with a letter or digit, and stay below 64 characters",
    .0.escape_debug()
)]
pub struct InvalidProfileName(String);

impl ProfileName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ProfileName {
    type Err = InvalidProfileName;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::try_from(text.to_owned())
    }
}

impl TryFrom<String> for ProfileName {
    type Error = InvalidProfileName;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let valid = text.len() <= MAX_NAME
            && text.starts_with(|c: char| c.is_ascii_alphanumeric())
            && text
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-'));
        if valid {
            Ok(Self(text))
        } else {
            // A hostile name may be of any length; what is shown of it is not.
            Err(InvalidProfileName(text.chars().take(MAX_NAME).collect()))
        }
    }
}

impl fmt::Display for ProfileName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn minikubes_names_are_accepted() {
        for name in ["minikube", "a", "my_cluster.2", "A-1", &"x".repeat(63)] {
            assert_eq!(name.parse::<ProfileName>().unwrap().as_str(), name);
        }
    }

    #[test]
    fn names_that_could_escape_a_path_or_a_line_are_refused() {
        for name in [
            "",
            ".",
            "..",
            "-a",
            "a/b",
            "a b",
            "a\n",
            "é",
            "a\0",
            &"x".repeat(64),
        ] {
            assert!(name.parse::<ProfileName>().is_err(), "{name:?}");
        }
    }

    #[test]
    fn a_hostile_name_is_shown_escaped_and_short() {
        let error = ProfileName::try_from("\x1b[2J".repeat(1_000))
            .unwrap_err()
            .to_string();
        assert!(error.len() < 600 && !error.contains('\x1b'), "{error}");
    }

    #[test]
    fn json_goes_through_the_same_check() {
        assert!(serde_json::from_str::<ProfileName>("\"../etc\"").is_err());
        assert_eq!(
            serde_json::from_str::<ProfileName>("\"p\"")
                .unwrap()
                .as_str(),
            "p"
        );
    }
}
