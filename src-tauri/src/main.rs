//! The window: a view of the session, in a process of its own. It forwards each snapshot to the page, and the page's commands
//! to the session; a tunnel never notices whether it is there.

mod commands;
mod link;
mod places;
mod single;
mod start;
#[cfg(all(test, feature = "ts"))]
mod types;

use std::{io::Write as _, process::ExitCode};

use tauri::{AppHandle, Manager as _, async_runtime};

fn main() -> ExitCode {
    let single = match single::claim() {
        Ok(None) => return ExitCode::SUCCESS,
        Ok(single) => single,
        // A second window is better than none; why there is no folder for either, the page says.
        Err(_) => None,
    };
    // By the tray, which then has no other place to be quit from.
    let no_panel = std::env::args_os().any(|argument| argument == "--no-panel");
    let (view, link) = link::begin(no_panel);
    let app = tauri::Builder::default()
        .manage(commands::Page::new(view, link.clone()))
        .invoke_handler(tauri::generate_handler![
            commands::watch,
            commands::command,
            commands::clean_up,
            commands::start_session,
            commands::open_service,
            commands::open_guide,
        ])
        .setup(move |app| {
            async_runtime::spawn(link.keep());
            if let Some(single) = single {
                let app = app.handle().clone();
                async_runtime::spawn(single.serve(move || show(&app)));
            }
            Ok(())
        })
        .run(tauri::generate_context!());
    match app {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Nobody may read it, as when the tray has started this.
            let _ = writeln!(
                std::io::stderr(),
                "minitunnel-window: the window can't be opened ({error}): is there a display?"
            );
            ExitCode::FAILURE
        }
    }
}

/// Brings the window to the front, as far as the desktop lets a program do so.
fn show(app: &AppHandle) {
    if let Some(window) = app.get_webview_window("main") {
        // A window that is closing right now is not shown any more.
        let _ = window.unminimize();
        let _ = window.show();
        let _ = window.set_focus();
    }
}
