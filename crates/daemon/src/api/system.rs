//! `/v1/system`: the daemon, its disk space, and getting it back; what problems mean.

use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path as FsPath;

use axum::Json;
use axum::extract::{Path, State};
use hull_protocol::api::{Image, Microvm, State as Life, System};
use hull_protocol::life::{DiskUsage, DiskUse, PruneRequest, Pruned};
use hull_protocol::units::Bytes;

use super::kernels::blocking;
use super::problem::{ApiError, KNOWN};
use super::{Api, body, volumes};
use crate::fleet::Fleet;
use crate::space;

pub(super) async fn system(State(api): State<Api>) -> Json<System> {
    let host = api.fleet.host();
    let (microvms, running) = (api.fleet.list().len(), api.fleet.busy());
    Json(System {
        version: env!("CARGO_PKG_VERSION").into(),
        pid: std::process::id(),
        on_demand: api.on_demand,
        data_dir: host.paths.data.display().to_string(),
        microvms,
        running,
        capacity: host.capacity.shown(),
        cgroups: host.groups.describe(),
    })
}

pub(super) async fn disk_usage(State(api): State<Api>) -> Result<Json<DiskUsage>, ApiError> {
    Ok(Json(blocking::<_, ApiError>(move || usage(&api.fleet)).await?))
}

fn at_rest(microvm: &Microvm) -> bool {
    matches!(microvm.state, Life::Created | Life::Stopped | Life::Failed)
}

fn usage(fleet: &Fleet) -> Result<DiskUsage, ApiError> {
    let host = fleet.host();
    let microvms: Vec<(bool, u64)> = fleet
        .list()
        .iter()
        .map(|microvm| (!at_rest(microvm), below(&host.paths.microvm(&microvm.id))))
        .collect();
    let used = fleet.images_in_use(false);
    let images: Vec<(bool, u64)> = host
        .images
        .list()
        .iter()
        .map(|image| (used.contains(&image.digest.to_string()), Image::from(image).size.get()))
        .collect();
    let kernels = host.kernels.list().map_err(ApiError::from)?;
    let kernels: Vec<(bool, u64)> = kernels
        .iter()
        .map(|kernel| (kernel.default || fleet.uses_kernel(&kernel.name), kernel.size.get()))
        .collect();
    let mut disks = Vec::new();
    for volume in host.volumes.list(&host.state)? {
        let used = !host.state.volume_users(&volume.id)?.is_empty();
        disks.push((used, volume.used.unwrap_or_default().get()));
    }
    let kinds = vec![
        sum("microvms", &microvms),
        sum("volumes", &disks),
        sum("images", &images),
        sum("kernels", &kernels),
    ];
    let free = space::free(&host.paths.data).map_err(|error| ApiError::internal(&error))?;
    Ok(DiskUsage { kinds, free })
}

/// Adds up what is in use, and what is not.
fn sum(kind: &str, all: &[(bool, u64)]) -> DiskUse {
    let total = |active: bool| all.iter().filter(|one| one.0 == active).map(|one| one.1).sum::<u64>();
    DiskUse {
        kind: kind.into(),
        count: all.len(),
        active: all.iter().filter(|one| one.0).count(),
        size: Bytes(total(true).saturating_add(total(false))),
        reclaimable: Bytes(total(false)),
    }
}

/// Bytes on disk below a directory; what goes meanwhile counts nothing.
fn below(place: &FsPath) -> u64 {
    let Ok(metadata) = place.symlink_metadata() else { return 0 };
    let entries = fs::read_dir(place).into_iter().flatten().flatten();
    metadata.blocks().saturating_mul(512).saturating_add(entries.map(|entry| below(&entry.path())).sum())
}

/// Removes microVMs that do not run, and what none needs: images, and volumes where that is wanted.
pub(super) async fn prune(State(api): State<Api>, bytes: bytes::Bytes) -> Result<Json<Pruned>, ApiError> {
    let wanted: PruneRequest = if bytes.is_empty() { PruneRequest::default() } else { body(&bytes)? };
    let mut pruned = Pruned::default();
    if !wanted.keep_microvms {
        for record in api.fleet.list().iter().filter(|record| at_rest(record)) {
            let Ok(microvm) = api.fleet.find(&record.id) else { continue };
            let place = api.fleet.host().paths.microvm(&record.id);
            let size = blocking::<_, ApiError>(move || Ok(below(&place))).await?;
            // One that was started meanwhile stays.
            if microvm.delete(false).await.is_ok() {
                pruned.microvms.push(record.id.clone());
                pruned.freed = Bytes(pruned.freed.get().saturating_add(size));
            }
        }
    }
    if wanted.volumes {
        let gone = volumes::prune_all(&api).await?;
        pruned.volumes = gone.volumes;
        pruned.freed = Bytes(pruned.freed.get().saturating_add(gone.freed.get()));
    }
    let fleet = api.fleet.clone();
    let (images, freed) =
        blocking::<_, ApiError>(move || Ok(prune_images(&fleet, wanted.all_images))).await?;
    pruned.images = images;
    pruned.freed = Bytes(pruned.freed.get().saturating_add(freed));
    Ok(Json(pruned))
}

/// Removes images that no microVM needs: those without a name, or all.
fn prune_images(fleet: &Fleet, all: bool) -> (Vec<String>, u64) {
    let used: HashSet<String> = fleet.images_in_use(false);
    let store = &fleet.host().images;
    let (mut removed, mut freed) = (Vec::new(), 0_u64);
    for image in store.list() {
        let digest = image.digest.to_string();
        if used.contains(&digest) || !(all || image.names.is_empty()) {
            continue;
        }
        match store.remove(&digest, |digest| fleet.images_in_use(false).contains(&digest.to_string())) {
            Ok(gone) => {
                freed = freed.saturating_add(gone.freed.bytes);
                removed.push(image.names.first().cloned().unwrap_or(digest));
            }
            Err(error) => tracing::warn!("the image {digest} is not pruned: {error}"),
        }
    }
    (removed, freed)
}

/// What a problem's `type` means.
pub(super) async fn problem(Path(kind): Path<String>) -> Result<String, ApiError> {
    let known = KNOWN.iter().find(|known| known.kind == kind);
    let known = known.ok_or_else(|| ApiError::not_found(format!("there is no problem '{kind}'")))?;
    Ok(format!("{}: {} ({})\n\n{}\n", known.kind, known.title, known.status, known.meaning))
}
