//! The harness itself: what the tests of the product rely on is true without the product.

mod cluster;
mod lab;
mod polkit;
mod testbed;
