    // Epilogue of a TM x TN register tile: c{i}_{j} at rows m_first + i, columns n{j}. A loop handles a few rows and then
    // moves the others up: unrolled over the tile, this would be most of what a driver compiles (a dozen times the K loop).
    //% set packed_ = false
    //% set GN = 4
    //% set block = 4 if TM % 4 == 0 else 1
    //% if lora
    for (var r = 0u; r < p.rank; r++) {
        //% for j in range(TN)
        let u{{ j }} = up_at(n{{ j }} * p.rank + r);
        //% endfor
        //% for i in range(loads)
        let g{{ i }} = p.lora_scale * hidden_at(from{{ i }} * p.rank + r);
        //% endfor
        //% for i in range(TM)
        {
            let h = {{ "subgroupBroadcast(g" ~ (i // SG) ~ ", " ~ (i % SG) ~ "u)" if SG else "g" ~ i }};
            //% for j in range(TN)
            c{{ i }}_{{ j }} += h * u{{ j }};
            //% endfor
        }
        //% endfor
    }
    //% endif
    // Uniforms tell of a bias and an addend where kernels for each case would be too many to compile.
    //% for j in range(TN)
    var bias{{ j }} = 0.0;
    //% endfor
    //% if biases
    if p.bias > 0u {
        //% for j in range(TN)
        bias{{ j }} = bias_at(n{{ j }});
        //% endfor
    }
    //% endif
    //% if adds and not geglu
    // The addend's row of row m; a division for each row would be eight, lane by lane.
    //% set added = "added"
    var added = (batch * p.m + m_first) / max(p.add_rows, 1u);
    //% endif
    let m_end = min(m_first + {{ TM }}u, p.m);
    for (var top = m_first; top < m_end; top += {{ block }}u) {
        //% for i in range([block, TM] | min)
        if top + {{ i }}u < m_end {
            let m = top + {{ i }}u;
            //% if adds and not geglu
            added += u32(batch * p.m + m >= (added + 1u) * p.add_rows);
            //% endif
            //% include "lib/gemm_row.wgsl"
        }
        //% endfor
        //% for i in range(TM - block)
        //% for j in range(TN)
        c{{ i }}_{{ j }} = c{{ i + block }}_{{ j }};
        //% endfor
        //% endfor
    }
