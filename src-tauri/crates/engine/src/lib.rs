//! Profiles, Kubernetes, the reducer and its effects, the session socket: all of a session but its views.
//!
//! [`engine::start`] runs the loop: inputs (files, the kernel's table, API servers, the helper, commands) go into the
//! pure [`reducer`], its effects go out, and a [`minitunnel_model::Snapshot`] is published after each change.
//! [`session`] carries the same [`engine::Handle`] over a socket, and [`host`] joins or hosts the user's one session.

pub mod cluster;
pub mod engine;
pub mod host;
pub mod log;
pub mod minikube;
pub mod reducer;
pub mod settings;

pub use minitunnel_model::shown;
pub use minitunnel_session as session;
