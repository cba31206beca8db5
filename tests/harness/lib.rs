//! Whole processes under test: real binaries, a simulated driver, a clock that tests move, and a judge.
//!
//! [`world::World`] has an aggregator and nodes, each a folder of its own and processes that can be killed at any
//! point. [`scenario`] makes what happens on a node; [`mod@reference`] says, from the answers that the driver really
//! served and from the scenario's own truth alone, who held what and for how long.
//!
//! Constraints: nothing here uses the agent's or the aggregator's code, which is what is judged, but for reading the
//! ledger's file in [`books`]; only processes started here are ever signalled; a wait ends with its condition or fails at its deadline with the logs' tails.
//!
//! Non-goals: speed of the reference, and judging busy time or energy.

pub mod aggregator;
pub mod binaries;
pub mod books;
pub mod certificates;
pub mod comparison;
pub mod forged;
pub mod gate;
pub mod http;
pub mod kubelet;
pub mod kubernetes;
pub mod netns;
pub mod network;
pub mod node;
pub mod process;
pub mod reference;
pub mod scenario;
pub mod served_log;
pub mod sim_clock;
pub mod slurm;
pub mod systemd;
pub mod tmpfs;
pub mod truth;
pub mod wait;
pub mod world;
