//! Isolating a process: the primitives that put it into a root, a set of capabilities, limits and a control
//! group of its own.
//!
//! Used in the guest for each container. Every function acts on the calling thread or process, which is
//! expected to be single-threaded and on its way to `execve`. Owner: the process that is to be isolated.

pub mod capabilities;
pub mod cgroup;
pub mod execute;
pub mod namespaces;
pub mod rlimits;
pub mod root;
