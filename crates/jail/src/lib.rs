//! Isolating a process: the primitives that put it into a root, a set of capabilities, limits and a control
//! group of its own.
//!
//! Used in the guest for each container and on the host for each VMM. Every function acts on the calling thread or
//! process. A container's is on its way to `execve`; [`vmm`] stays what it is. Owner: the process that is isolated.

pub mod capabilities;
pub mod cgroup;
pub mod execute;
pub mod landlock;
pub mod namespaces;
pub mod rlimits;
pub mod root;
pub mod seccomp;
pub mod vmm;
