// out[m, n] = sum over k of x[m, k] * w[n, k], as it is commonly written for GPUs: a workgroup of 256 threads takes a 64 x 64
// tile in steps of 16 through workgroup memory, each thread 4 x 4 results; vec4 loads. m, n and k are multiples of the tile.
var<workgroup> tile_x: array<vec4<f32>, 256>;
var<workgroup> tile_w: array<vec4<f32>, 256>;

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let row = lane / 4u;
    let part = lane % 4u;
    let m0 = group.y * 64u;
    let n0 = group.x * 64u;
    let ty = lane / 16u;
    let tx = lane % 16u;
    //% for i in range(4)
    var c{{ i }} = vec4<f32>(0.0);
    //% endfor
    for (var k = 0u; k < p.k; k += 16u) {
        tile_x[lane] = x_at4(((m0 + row) * p.k + k) / 4u + part);
        tile_w[lane] = w_at4(((n0 + row) * p.k + k) / 4u + part);
        workgroupBarrier();
        //% for v in range(4)
        {
            let w0 = tile_w[(tx * 4u) * 4u + {{ v }}u];
            let w1 = tile_w[(tx * 4u + 1u) * 4u + {{ v }}u];
            let w2 = tile_w[(tx * 4u + 2u) * 4u + {{ v }}u];
            let w3 = tile_w[(tx * 4u + 3u) * 4u + {{ v }}u];
            //% for i in range(4)
            {
                let x = tile_x[(ty * 4u + {{ i }}u) * 4u + {{ v }}u];
                c{{ i }} += vec4<f32>(dot(x, w0), dot(x, w1), dot(x, w2), dot(x, w3));
            }
            //% endfor
        }
        //% endfor
        workgroupBarrier();
    }
    //% for i in range(4)
    out_put4(((m0 + ty * 4u + {{ i }}u) * p.n + n0) / 4u + tx, c{{ i }});
    //% endfor
}
