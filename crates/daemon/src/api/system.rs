//! `/v1/system`: the daemon, its disk space, and getting it back; what problems mean.

use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path as FsPath;

use axum::Json;
use axum::extract::{Path, State};
use hull_image::Digest;
use hull_protocol::api::{Amounts, Image, Resource, System, Tenant};
use hull_protocol::life::{DiskUsage, DiskUse, PruneRequest, Pruned};
use hull_protocol::units::Bytes;

use super::kernels::blocking;
use super::operation::{Operation, bytes, get, json, post};
use super::problem::{ApiError, KNOWN};
use super::{Api, body};
use crate::space;
use crate::view::View;

/// What is asked of the daemon.
pub(super) fn operations() -> Vec<Operation> {
    vec![
        get("/v1/system", system, "showSystem", "Show the daemon, and what the host has left")
            .answers(json::<System>(200, "The daemon.")),
        get("/v1/system/df", disk_usage, "showDiskUsage", "Show what takes disk space").answers(json::<
            DiskUsage,
        >(
            200,
            "What takes disk space, and what a prune gives back.",
        )),
        post("/v1/system/prune", prune, "prune", "Remove what nobody needs")
            .notes("MicroVMs that do not run, and images that none needs.")
            .body::<PruneRequest>()
            .or_none()
            .answers(json::<Pruned>(200, "What was removed.")),
        get("/problems/{kind}", problem, "explainProblem", "What a problem's `type` means")
            .answers(bytes("text/plain; charset=utf-8", "The meaning, for people.")),
    ]
}

pub(super) async fn system(State(api): State<Api>) -> Json<System> {
    let all = api.fleet.list();
    // Where the daemon is on its host is the host's own tenant's business.
    let host = api.fleet.whole().map(|fleet| fleet.host());
    Json(System {
        version: env!("CARGO_PKG_VERSION").into(),
        pid: host.map_or(0, |_| std::process::id()),
        on_demand: api.on_demand,
        data_dir: host.map(|host| host.paths.data.display().to_string()).unwrap_or_default(),
        microvms: all.len(),
        running: all.iter().filter(|microvm| !microvm.state.is_at_rest()).count(),
        capacity: api.fleet.capacity(),
        cgroups: host.map(|host| host.groups.describe()).unwrap_or_default(),
    })
}

pub(super) async fn disk_usage(State(api): State<Api>) -> Result<Json<DiskUsage>, ApiError> {
    Ok(Json(blocking::<_, ApiError>(move || usage(&api.fleet)).await?))
}

fn usage(fleet: &View) -> Result<DiskUsage, ApiError> {
    let microvms: Vec<(bool, u64)> = fleet
        .list()
        .iter()
        .map(|microvm| (!microvm.state.is_at_rest(), below(&fleet.directory(microvm))))
        .collect();
    let used = fleet.images_in_use(false);
    let images: Vec<(bool, u64)> = fleet
        .images()
        .list()
        .iter()
        .map(|image| (used.contains(&image.digest.to_string()), Image::from(image).size.get()))
        .collect();
    let kernels = fleet.kernels().list().map_err(ApiError::from)?;
    let kernels: Vec<(bool, u64)> = kernels
        .iter()
        .map(|kernel| (kernel.default || fleet.uses_kernel(&kernel.name), kernel.size.get()))
        .collect();
    let mut volumes = Vec::new();
    for volume in fleet.volumes()? {
        volumes.push((fleet.uses_volume(&volume)?, volume.used.unwrap_or_default().get()));
    }
    let kinds = vec![
        sum("microvms", &microvms),
        sum("volumes", &volumes),
        sum("images", &images),
        sum("kernels", &kernels),
    ];
    let free = match fleet.whole() {
        Some(whole) => space::free(&whole.host().paths.data).map_err(|error| ApiError::internal(&error))?,
        None => left(fleet),
    };
    Ok(DiskUsage { kinds, free })
}

/// What a tenant's quota leaves it; how much the host has is not for it to know.
fn left(fleet: &View) -> Bytes {
    let of = |amounts: &Amounts| amounts.get(&Resource::Disk).copied();
    let left = |tenant: Tenant| Some(of(&tenant.quotas)?.saturating_sub(of(&tenant.used).unwrap_or(0)));
    Bytes(fleet.itself().and_then(left).unwrap_or(0))
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
        for record in api.fleet.list().iter().filter(|record| record.state.is_at_rest()) {
            let Ok(microvm) = api.fleet.find(&record.id) else { continue };
            let place = api.fleet.directory(record);
            let size = blocking::<_, ApiError>(move || Ok(below(&place))).await?;
            // One that was started meanwhile stays.
            if microvm.delete(false).await.is_ok() {
                pruned.microvms.push(record.id.clone());
                pruned.freed = Bytes(pruned.freed.get().saturating_add(size));
            }
        }
    }
    if wanted.volumes {
        let fleet = api.fleet.clone();
        let gone = blocking(move || fleet.prune_volumes()).await?;
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
fn prune_images(fleet: &View, all: bool) -> (Vec<String>, u64) {
    let used: HashSet<String> = fleet.images_in_use(false);
    let (others, store) = (fleet.images_of_others(), fleet.images());
    let (mut removed, mut freed) = (Vec::new(), 0_u64);
    for image in store.list() {
        let digest = image.digest.to_string();
        let nameless = image.names.is_empty();
        if used.contains(&digest) || !(all || nameless) || (nameless && others.contains(&digest)) {
            continue;
        }
        let in_use = |digest: &Digest| fleet.images_in_use(false).contains(&digest.to_string());
        let needed = |digest: &Digest| fleet.images_of_others().contains(&digest.to_string());
        match store.release(&digest, in_use, needed) {
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
