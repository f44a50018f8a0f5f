//! The few words that the privileged helper shares with everybody: plain types, no I/O. `minitunnel-model` has the rest.

mod profile;
mod route;
mod validate;

pub use profile::{InvalidProfileName, ProfileName};
pub use route::Route;
pub use validate::{Invalid, validate};
