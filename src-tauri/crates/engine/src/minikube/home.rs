//! Where the minikube home and the kubeconfig are.

use std::{env, ffi::OsString, path::PathBuf};

use minitunnel_model::Settings;

use super::Host;

/// The environment variables that decide it, as given by the caller; an empty one counts as unset.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Environment {
    /// `MINIKUBE_HOME`.
    pub minikube_home: Option<OsString>,
    /// `HOME` (Windows: `USERPROFILE`).
    pub home: Option<OsString>,
    /// `KUBECONFIG`.
    pub kubeconfig: Option<OsString>,
    /// `DOCKER_HOST`: where docker's daemon is.
    pub docker_host: Option<OsString>,
    /// `CONTAINER_HOST`: where podman's service is.
    pub container_host: Option<OsString>,
}

impl Environment {
    /// Takes the variables out of a lookup such as [`std::env::var_os`].
    pub fn from_lookup(lookup: impl Fn(&str) -> Option<OsString>) -> Self {
        let set = |name| lookup(name).filter(|value| !value.is_empty());
        Self {
            minikube_home: set("MINIKUBE_HOME"),
            home: set(if cfg!(windows) { "USERPROFILE" } else { "HOME" }),
            kubeconfig: set("KUBECONFIG"),
            docker_host: set("DOCKER_HOST"),
            container_host: set("CONTAINER_HOST"),
        }
    }

    /// The same where the user's settings name other places.
    pub fn with(self, settings: &Settings) -> Self {
        let path = |path: &Option<PathBuf>| path.clone().map(OsString::from);
        Self {
            minikube_home: path(&settings.minikube_home).or(self.minikube_home),
            kubeconfig: path(&settings.kubeconfig).or(self.kubeconfig),
            ..self
        }
    }
}

/// A minikube home and the kubeconfig that goes with it; neither has to exist.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Home {
    /// The folder, `…/.minikube`.
    pub path: PathBuf,
    /// The kubeconfig file.
    pub kubeconfig: PathBuf,
    /// What else decides how its nodes are reached.
    pub host: Host,
}

/// Nothing says where the minikube home is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "there is no home folder to look for minikube's files in: set HOME, or MINIKUBE_HOME and KUBECONFIG"
)]
pub struct NoHome;

impl Home {
    /// Finds it as minikube does (`pkg/minikube/localpath`): `MINIKUBE_HOME`, else the user's home, with `.minikube`
    /// appended unless it already ends so; the kubeconfig is `KUBECONFIG`'s first entry, else `~/.kube/config`.
    pub fn find(environment: &Environment) -> Result<Self, NoHome> {
        let set = |value: &Option<OsString>| {
            value
                .as_ref()
                .filter(|value| !value.is_empty())
                .map(PathBuf::from)
        };
        let user = set(&environment.home);
        let base = set(&environment.minikube_home)
            .or_else(|| user.clone())
            .ok_or(NoHome)?;
        let path = if base.ends_with(".minikube") {
            base
        } else {
            base.join(".minikube")
        };
        let listed = environment
            .kubeconfig
            .as_ref()
            .and_then(|list| env::split_paths(list).find(|path| !path.as_os_str().is_empty()));
        let kubeconfig = listed
            .or_else(|| user.map(|home| home.join(".kube/config")))
            .ok_or(NoHome)?;
        Ok(Self {
            path,
            kubeconfig,
            host: Host::detect(environment),
        })
    }

    /// The folder of all profiles.
    pub(super) fn profiles(&self) -> PathBuf {
        self.path.join("profiles")
    }

    /// The folder of all machines.
    pub(super) fn machines(&self) -> PathBuf {
        self.path.join("machines")
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn find(variables: &[(&str, &str)]) -> Result<Home, NoHome> {
        Home::find(&Environment::from_lookup(|name| {
            variables
                .iter()
                .find(|(of, _)| *of == name)
                .map(|(_, value)| value.into())
        }))
    }

    #[test]
    fn the_users_home_is_the_default() {
        let home = find(&[
            ("HOME", "/home/u"),
            ("MINIKUBE_HOME", ""),
            ("KUBECONFIG", ""),
        ])
        .unwrap();
        assert_eq!(home.path, Path::new("/home/u/.minikube"));
        assert_eq!(home.kubeconfig, Path::new("/home/u/.kube/config"));
    }

    #[test]
    fn minikube_home_gets_its_suffix_only_once() {
        let of = |value| {
            find(&[("HOME", "/home/u"), ("MINIKUBE_HOME", value)])
                .unwrap()
                .path
        };
        assert_eq!(of("/data"), Path::new("/data/.minikube"));
        assert_eq!(of("/data/.minikube"), Path::new("/data/.minikube"));
        assert_eq!(of("/data/.minikube/"), Path::new("/data/.minikube/"));
    }

    #[test]
    fn kubeconfigs_first_entry_counts() {
        let home = find(&[("MINIKUBE_HOME", "/m"), ("KUBECONFIG", ":/a:/b")]).unwrap();
        assert_eq!(home.kubeconfig, Path::new("/a"));
    }

    #[test]
    fn without_any_home_the_sentence_names_the_variables() {
        assert!(find(&[]).unwrap_err().to_string().contains("set HOME"));
    }
}
