// Softmax over rows, TEAM threads a row; with `backward` the gradient by x from y and dout. Values: backward TEAM WG.
//% include "lib/team.wgsl"
@compute @workgroup_size({{ WG }})
fn main(
    @builtin(workgroup_id) w: vec3<u32>,
    @builtin(num_workgroups) nw: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let row = team(w, nw, lane);
    if row >= p.rows { return; }
    let first = row * p.columns;
    let start = team_lane(lane);
    var sum = 0.0;
    //% if backward
    for (var c = start; c < p.columns; c += {{ TEAM }}u) { sum += y_at(first + c) * dout_at(first + c); }
    sum = team_sum(lane, sum);
    for (var c = start; c < p.columns; c += {{ TEAM }}u) {
        dx_put(first + c, y_at(first + c) * (dout_at(first + c) - sum));
    }
    //% else
    var largest = x_at(first);
    for (var c = start; c < p.columns; c += {{ TEAM }}u) { largest = max(largest, x_at(first + c)); }
    largest = team_max(lane, largest);
    for (var c = start; c < p.columns; c += {{ TEAM }}u) { sum += exp(x_at(first + c) - largest); }
    let scale = 1.0 / team_sum(lane, sum);
    for (var c = start; c < p.columns; c += {{ TEAM }}u) {
        out_put(first + c, exp(x_at(first + c) - largest) * scale);
    }
    //% endif
}
