//! Lines for a person. Unlike `println!`, these do not panic where nobody reads any more: a closed terminal or pipe is
//! no reason to leave addresses behind.

use std::{
    fmt::Arguments,
    io::{self, Write},
};

pub(crate) use minitunnel_engine::shown::printable;

/// Prints a line to the standard output.
macro_rules! say {
    () => { $crate::out::line(format_args!("")) };
    ($($text:tt)*) => { $crate::out::line(format_args!($($text)*)) };
}

/// Prints a line to the standard error.
macro_rules! complain {
    ($($text:tt)*) => { $crate::out::error_line(format_args!($($text)*)) };
}

pub(crate) use {complain, say};

/// Prints what a program reads, as it is.
pub(crate) fn raw(text: &str) {
    write(io::stdout().lock(), text);
}

pub(crate) fn line(text: Arguments<'_>) {
    write(io::stdout().lock(), &(printable(&text.to_string()) + "\n"));
}

pub(crate) fn error_line(text: Arguments<'_>) {
    write(io::stderr().lock(), &(printable(&text.to_string()) + "\n"));
}

fn write(mut stream: impl Write, text: &str) {
    // There is nobody to tell.
    let _ = stream
        .write_all(text.as_bytes())
        .and_then(|()| stream.flush());
}
