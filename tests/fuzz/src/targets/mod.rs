//! The targets, by what they read.

mod devices;
mod images;
mod kernels;
mod messages;
mod net;
mod registers;
#[path = "../../../../crates/daemon/src/kernel/samples.rs"]
#[allow(dead_code, clippy::cast_possible_truncation, reason = "made for the tests of the module it is from")]
mod samples;
mod vmm;
mod vsock;

use crate::Target;

/// All of them, in the order of what a guest reaches first.
pub(crate) const TARGETS: [Target; 27] = [
    Target::new("queue", devices::queue, devices::queue_seeds),
    Target::new("registers", registers::registers, registers::registers_seeds),
    Target::new("block", devices::block, devices::block_seeds),
    Target::new("rng", devices::rng, devices::rng_seeds),
    Target::new("net", net::net, net::net_seeds),
    Target::new("frames", net::frames, net::frames_seeds),
    Target::new("bucket", net::bucket, net::bucket_seeds),
    Target::new("vsock", vsock::rings, vsock::rings_seeds),
    Target::new("connections", vsock::connections, vsock::connections_seeds),
    Target::new("layout", vmm::layout, vmm::layout_seeds),
    Target::new("plan", vmm::plan, vmm::plan_seeds),
    Target::new("kernel", vmm::kernel, vmm::kernel_seeds),
    Target::new("image", kernels::image, kernels::image_seeds),
    Target::new("compression", kernels::compression, kernels::compression_seeds),
    Target::new("package", kernels::package, kernels::package_seeds),
    Target::new("module", kernels::module, kernels::module_seeds),
    Target::new("manifest", images::manifest, images::manifest_seeds),
    Target::new("layer", images::layer, images::layer_seeds),
    Target::new("whiteouts", images::whiteouts, images::whiteouts_seeds),
    Target::new("archive", images::archive, images::archive_seeds),
    Target::new("entries", images::entries, images::layer_seeds),
    Target::new("unpack", images::unpack, images::whiteouts_seeds),
    Target::new("agent", messages::agent, messages::agent_seeds),
    Target::new("control", messages::control, messages::control_seeds),
    Target::new("attached", messages::attached, messages::attached_seeds),
    Target::new("bodies", messages::bodies, messages::bodies_seeds),
    Target::new("names", messages::names, messages::names_seeds),
];
