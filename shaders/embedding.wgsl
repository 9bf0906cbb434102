// out[i] = table[ids[i]] (+ positions[i % tokens]). One element, or four, a thread. The table is bound from row `first`
// on, `rows` of it; ids of other rows are left to other dispatches. Values: vec4, placed.
//% set four = "4" if vec4 else ""
@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) w: vec3<u32>,
    @builtin(num_workgroups) n: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let i = linear_workgroup(w, n) * 64u + lane;
    if i >= p.count { return; }
    let token = i / p.width;
    let c = i - token * p.width;
    // An id beyond the table is refused by the host; should one come through, it must not read elsewhere.
    let row = min(ids_at(token), p.last_row);
    if row < p.first || row - p.first >= p.rows { return; }
    var v = table_at{{ four }}((row - p.first) * p.width + c);
    //% if placed
    v += positions_at{{ four }}(token % p.tokens * p.width + c);
    //% endif
    out_put{{ four }}(i, v);
}
