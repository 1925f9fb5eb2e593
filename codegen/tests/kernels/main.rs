//! Every kernel kind against the IR interpreter: one suite ([`trial::Trial::run`]) that all of them go through.

#[path = "../common/mod.rs"]
mod common;

mod attention;
mod head;
mod in_place;
mod linear;
mod pack;
mod random;
mod recurrent;
mod rejected;
mod rows;
mod snapshots;
mod trial;
