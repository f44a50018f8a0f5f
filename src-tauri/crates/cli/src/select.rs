//! Which profiles a command is for.

use std::path::Path;

use minitunnel_engine::minikube::Profiles;
use minitunnel_model::{BrokenProfile, ProfileName};

use crate::exit::{Exit, Failure};

/// The way out of a profile that can't be used.
const ANOTHER: &str = "make another one with `minikube start -p NAME`";

/// The profiles that are meant: those named, else the only one, else minikube's active one.
///
/// # Errors
///
/// A sentence that names what there is, and what is wrong with what can't be used.
pub(crate) fn select(
    named: &[ProfileName],
    profiles: &Profiles,
    active: Option<&ProfileName>,
    home: &Path,
) -> Result<Vec<ProfileName>, Failure> {
    let home = home.display();
    let broken = |name: &ProfileName| {
        let of = |broken: &&BrokenProfile| broken.name == name.as_str();
        profiles.broken.iter().find(of)
    };
    let known: Vec<&str> = profiles.readable.keys().map(ProfileName::as_str).collect();
    let list = known.join(", ");
    for name in named {
        if let Some(broken) = broken(name) {
            return Err(refuse(format!(
                "profile {name} can't be used: {}: mend it, or {ANOTHER}",
                broken.problem
            )));
        }
        if !profiles.readable.contains_key(name) {
            let list = if list.is_empty() { "none" } else { &list };
            return Err(refuse(format!(
                "there is no minikube profile {name} in {home} (there are: {list}); \
                 `minikube start -p {name}` makes one"
            )));
        }
    }
    if !named.is_empty() {
        return Ok(named.to_vec());
    }
    if let Some(broken) = active.and_then(broken)
        && !known.is_empty()
    {
        let (name, problem) = (&broken.name, &broken.problem);
        return Err(refuse(format!(
            "minikube's active profile {name} can't be used: {problem}; name another one with -p: {list}"
        )));
    }
    let mut names = profiles.readable.keys();
    match (names.next(), names.next()) {
        (Some(only), None) => Ok(vec![only.clone()]),
        (Some(_), Some(_)) => {
            let active = active.filter(|name| profiles.readable.contains_key(name));
            match active {
                Some(active) => Ok(vec![active.clone()]),
                None => Err(refuse(format!("which profile? Name one with -p: {list}"))),
            }
        }
        (None, _) if profiles.broken.is_empty() => Err(refuse(format!(
            "there is no minikube profile in {home}: run `minikube start`, or try `minitunnel demo`"
        ))),
        (None, _) => {
            let problem = |broken: &BrokenProfile| format!("{}: {}", broken.name, broken.problem);
            let problems: Vec<String> = profiles.broken.iter().map(problem).collect();
            Err(refuse(format!(
                "no minikube profile in {home} can be used: {}: mend one, or {ANOTHER}",
                problems.join("; ")
            )))
        }
    }
}

fn refuse(message: String) -> Failure {
    Failure {
        exit: Exit::NoProfile,
        message,
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use minitunnel_engine::minikube::{Environment, Home, active_profile, read_profiles};

    use super::*;

    /// A minikube home with these profiles: the text of each one's `config.json`.
    fn chosen(
        profiles: &[(&str, &str)],
        active: &str,
        named: &[&str],
    ) -> Result<Vec<String>, (Exit, String)> {
        let folder = tempfile::tempdir().unwrap();
        let home = Home::find(&Environment {
            home: Some(folder.path().into()),
            ..Environment::default()
        })
        .unwrap();
        for (name, config) in profiles {
            let profile = home.path.join("profiles").join(name);
            fs::create_dir_all(&profile).unwrap();
            fs::write(profile.join("config.json"), config).unwrap();
        }
        if !active.is_empty() {
            fs::create_dir_all(home.path.join("config")).unwrap();
            let set = format!("{{\"profile\": \"{active}\"}}");
            fs::write(home.path.join("config/config.json"), set).unwrap();
        }
        let named: Vec<ProfileName> = named.iter().map(|name| name.parse().unwrap()).collect();
        let found = read_profiles(&home);
        let found = select(&named, &found, active_profile(&home).as_ref(), &home.path);
        let texts = |names: Vec<ProfileName>| names.iter().map(ToString::to_string).collect();
        found.map(texts).map_err(|failure| {
            let path = home.path.display().to_string();
            (failure.exit, failure.message.replace(&path, "HOME"))
        })
    }

    const GOOD: &str =
        r#"{"Driver": "docker", "KubernetesConfig": {"KubernetesVersion": "v1.34.0"}}"#;

    fn refused(message: &str) -> Result<Vec<String>, (Exit, String)> {
        Err((Exit::NoProfile, message.to_owned()))
    }

    #[test]
    fn the_only_profile_is_meant_and_then_the_active_one() {
        assert_eq!(chosen(&[("a", GOOD)], "", &[]), Ok(vec!["a".to_owned()]));
        let two = [("a", GOOD), ("b", GOOD)];
        assert_eq!(chosen(&two, "b", &[]), Ok(vec!["b".to_owned()]));
        let which = "which profile? Name one with -p: a, b";
        assert_eq!(chosen(&two, "", &[]), refused(which));
        assert_eq!(chosen(&two, "gone", &[]), refused(which));
    }

    #[test]
    fn a_home_with_broken_profiles_alone_says_what_is_wrong_with_each() {
        let said =
            "no minikube profile in HOME can be used: q: HOME/profiles/q/config.json is empty";
        let out = ": mend one, or make another one with `minikube start -p NAME`";
        let one = chosen(&[("q", "")], "", &[]);
        assert_eq!(one, refused(&format!("{said}{out}")));
        let (_, two) = chosen(&[("q", ""), ("w", "[")], "", &[]).unwrap_err();
        assert!(two.starts_with(said) && two.ends_with(out), "{two}");
        assert!(two.contains("; w: HOME/profiles/w/config.json"), "{two}");
    }

    #[test]
    fn a_broken_active_profile_is_not_replaced_by_another_one() {
        let (exit, said) = chosen(&[("a", GOOD), ("q", "")], "q", &[]).unwrap_err();
        assert_eq!(exit, Exit::NoProfile);
        let expected = "minikube's active profile q can't be used: HOME/profiles/q/config.json is empty; name another one with -p: a";
        assert_eq!(said, expected);
    }

    #[test]
    fn a_name_that_is_not_there_or_broken_is_refused_with_what_there_is() {
        let expected = "there is no minikube profile b in HOME (there are: a); `minikube start -p b` makes one";
        assert_eq!(chosen(&[("a", GOOD)], "", &["b"]), refused(expected));
        let expected = "profile q can't be used: HOME/profiles/q/config.json is empty: mend it, or make another one with \
                        `minikube start -p NAME`";
        assert_eq!(
            chosen(&[("a", GOOD), ("q", "")], "", &["a", "q"]),
            refused(expected)
        );
        let none =
            "there is no minikube profile in HOME: run `minikube start`, or try `minitunnel demo`";
        assert_eq!(chosen(&[], "", &[]), refused(none));
    }
}
