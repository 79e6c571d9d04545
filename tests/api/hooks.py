"""What schemathesis must know of the API beyond its document."""

import os

import schemathesis

OWN_TOKEN = os.environ["HULL_TOKEN_ID"]


@schemathesis.hook
def before_load_schema(context, raw_schema):
    """Over TCP nobody comes without a token: what is optional over the unix socket is not here."""
    for item in raw_schema["paths"].values():
        for operation in item.values():
            operation["security"] = [one for one in operation["security"] if one]


@schemathesis.hook
def map_query(context, query):
    """Streams without an end are asked for what is there."""
    if query and context.operation.path in STREAMS:
        query = {**query, **STREAMS[context.operation.path]}
    return query


@schemathesis.hook
def filter_path_parameters(context, path_parameters):
    """The token that all these requests come with is not to be removed."""
    return (path_parameters or {}).get("id") != OWN_TOKEN


STREAMS = {
    "/v1/events": {"follow": "false"},
    "/v1/stats": {"stream": "false"},
    "/v1/microvms/{id}/stats": {"stream": "false"},
    "/v1/microvms/{id}/logs": {"follow": "false"},
}
