//! `/v1/networks`.

use axum::Json;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::{StatusCode, Uri};
use axum::response::Response;
use hull_protocol::api::{Network, NetworkSpec, PlainCard, PlainCardSpec};

use super::access::Made;
use super::operation::{Operation, delete, done, get, json, post};
use super::problem::ApiError;
use super::{Api, access, body, page, query};

/// What is asked of networks.
pub(super) fn operations() -> Vec<Operation> {
    vec![
        get("/v1/networks", list, "listNetworks", "List networks")
            .query::<page::Wanted>()
            .answers(json::<Vec<Network>>(200, "A page of networks.").with(&["Link"]))
            .fails(&["no-networks"]),
        post("/v1/networks", create, "createNetwork", "Create a network")
            .body::<NetworkSpec>()
            .answers(json::<Network>(201, "The new network.").with(&["Location"]))
            .fails(&["conflict", "over-quota", "no-networks"]),
        get(
            "/v1/networks/{name}",
            inspect,
            "inspectNetwork",
            "Show a network, who is on it, and what it refused",
        )
        .answers(json::<Network>(200, "The network."))
        .fails(&["no-such-network", "no-networks"]),
        delete("/v1/networks/{name}", remove, "removeNetwork", "Remove a network that nobody is on")
            .answers(done("It is gone."))
            .fails(&["no-such-network", "conflict", "no-networks"]),
        post("/v1/networks/{name}/cards", lend, "lendCard", "Lend a card to a plain VM, which its user boots")
            .notes("Its tap waits for a minute to be opened, and the card is given back when nobody has it open any more.")
            .body::<PlainCardSpec>()
            .answers(json::<PlainCard>(201, "The card, and its network."))
            .fails(&["no-such-network", "conflict", "over-quota", "no-networks"]),
        delete("/v1/networks/{name}/cards/{tap}", give_back, "giveBackCard", "Give a plain VM's card back")
            .answers(done("It is gone."))
            .fails(&["no-such-network", "conflict", "no-networks"]),
    ]
}

pub(super) async fn list(State(api): State<Api>, uri: Uri) -> Result<Response, ApiError> {
    let wanted = query(&uri)?;
    Ok(page::of(api.fleet.networks()?, |network: &Network| network.name.clone(), wanted, &uri))
}

pub(super) async fn create(
    State(api): State<Api>,
    bytes: Bytes,
) -> Result<(StatusCode, Made, Json<Network>), ApiError> {
    let network = api.fleet.create_network(body(&bytes)?).await?;
    Ok((StatusCode::CREATED, access::made("networks", &network.name), Json(network)))
}

pub(super) async fn inspect(
    State(api): State<Api>,
    Path(name): Path<String>,
) -> Result<Json<Network>, ApiError> {
    Ok(Json(api.fleet.network(&name).await?))
}

pub(super) async fn remove(State(api): State<Api>, Path(name): Path<String>) -> Result<StatusCode, ApiError> {
    api.fleet.remove_network(&name).await?;
    Ok(StatusCode::NO_CONTENT)
}

pub(super) async fn lend(
    State(api): State<Api>,
    Path(name): Path<String>,
    bytes: Bytes,
) -> Result<(StatusCode, Json<PlainCard>), ApiError> {
    access::whole(&api)?;
    Ok((StatusCode::CREATED, Json(api.fleet.lend_card(&name, &body(&bytes)?).await?)))
}

pub(super) async fn give_back(
    State(api): State<Api>,
    Path((name, tap)): Path<(String, String)>,
) -> Result<StatusCode, ApiError> {
    access::whole(&api)?;
    api.fleet.give_back_card(&name, &tap).await?;
    Ok(StatusCode::NO_CONTENT)
}
