// TEAM threads, one or a workgroup of them, work on one item and add up what they found.
// Values: TEAM WG (threads of a workgroup).
//% if TEAM > 1
var<workgroup> team_part: array<f32, {{ TEAM }}>;
fn team(w: vec3<u32>, n: vec3<u32>, lane: u32) -> u32 { return linear_workgroup(w, n); }
fn team_lane(lane: u32) -> u32 { return lane; }
//% macro fold(name, expression)
// By all threads of the workgroup.
fn {{ name }}(lane: u32, value: f32) -> f32 {
    workgroupBarrier();
    team_part[lane] = value;
    workgroupBarrier();
    for (var half = {{ TEAM // 2 }}u; half > 0u; half >>= 1u) {
        if lane < half { team_part[lane] = {{ expression }}; }
        workgroupBarrier();
    }
    return team_part[0];
}
//% endmacro
{{ fold("team_sum", "team_part[lane] + team_part[lane + half]") }}
{{ fold("team_max", "max(team_part[lane], team_part[lane + half])") }}
//% else
fn team(w: vec3<u32>, n: vec3<u32>, lane: u32) -> u32 { return linear_workgroup(w, n) * {{ WG }}u + lane; }
fn team_lane(lane: u32) -> u32 { return 0u; }
fn team_sum(lane: u32, value: f32) -> f32 { return value; }
fn team_max(lane: u32, value: f32) -> f32 { return value; }
//% endif
