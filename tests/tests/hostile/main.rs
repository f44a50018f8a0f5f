//! Callers who want harm: each gets a typed error, nothing is changed, and whoever means well is served afterwards.

mod callers;
mod session;
