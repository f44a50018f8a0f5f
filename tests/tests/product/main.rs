//! The product on real parts, as its users have it: one program, as each one more takes its time to be linked.

mod bus;
mod cli;
mod conflicts;
mod dry_run;
mod ends;
mod leftovers;
mod life;
mod nodes;
mod profiles;
mod services;
mod sessions;
mod shapes;
mod trouble;
mod tunnel;
