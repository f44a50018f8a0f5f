use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// What the user has settled: the file `settings.toml` in the user's own configuration folder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "ts", derive(ts_rs::TS), ts(export_to = "model.ts"))]
#[serde(default)]
pub struct Settings {
    /// Whether a tunnel comes up when its cluster does.
    pub start_with_cluster: bool,
    /// Whether the tray starts when the user logs in.
    pub start_at_login: bool,
    /// Whether the desktop's notifications are used.
    pub notifications: bool,
    /// The minikube home, in place of the environment's.
    pub minikube_home: Option<PathBuf>,
    /// The kubeconfig file, in place of the environment's.
    pub kubeconfig: Option<PathBuf>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            start_with_cluster: false,
            start_at_login: false,
            notifications: true,
            minikube_home: None,
            kubeconfig: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{from_value, json, to_value};

    use super::*;
    use crate::{Command, FromSession, Snapshot};

    #[test]
    fn settings_are_an_object_in_which_everything_has_its_default() {
        assert_eq!(
            to_value(Settings::default()).unwrap(),
            json!({
                "start_with_cluster": false,
                "start_at_login": false,
                "notifications": true,
                "minikube_home": null,
                "kubeconfig": null,
            })
        );
        assert_eq!(
            from_value::<Settings>(json!({})).unwrap(),
            Settings::default()
        );
        let some = json!({ "notifications": false, "minikube_home": "/m" });
        let expected = Settings {
            notifications: false,
            minikube_home: Some("/m".into()),
            ..Settings::default()
        };
        assert_eq!(from_value::<Settings>(some).unwrap(), expected);
    }

    #[test]
    fn a_snapshot_carries_the_settings_and_what_is_wrong_with_their_file() {
        let mut snapshot = Snapshot::default();
        let silent = to_value(&snapshot).unwrap();
        assert_eq!(silent["settings"], to_value(Settings::default()).unwrap());
        assert_eq!(silent.get("settings_problems"), None);
        snapshot.settings_problems = vec!["it is odd".into()];
        let told = to_value(&snapshot).unwrap();
        assert_eq!(told["settings_problems"], json!(["it is odd"]));
        assert_eq!(from_value::<Snapshot>(told).unwrap(), snapshot);
    }

    #[test]
    fn commands_of_the_desktop_have_their_names() {
        let settings = Settings::default();
        let form = to_value(&settings).unwrap();
        let configure = json!({ "command": "configure", "settings": form });
        assert_eq!(
            to_value(Command::Configure { settings }).unwrap(),
            configure
        );
        let open = json!({ "command": "open_window" });
        assert_eq!(to_value(Command::OpenWindow).unwrap(), open);
        let message = "there is no desktop".to_owned();
        assert_eq!(
            to_value(FromSession::Declined { message }).unwrap(),
            json!({ "type": "declined", "message": "there is no desktop" })
        );
    }
}
