// The whole accelerator with a clock, a memory and a monitor; Python wakes only on `halt`.
//
// The memory and all records live in memory.cpp. The bench (sim/bench_engine.py) reaches the
// signals marked public through cocotb, and drives those marked public_flat_rw. Everything that
// depends on such a signal without a register is computed again at every step of the simulator.

module harness #(
    parameter int DATA_BITS = 128,
    parameter int ADDRESS_BITS = 32,
    parameter int LANES = 4,
    parameter int COUNTERS = 38,
    parameter int EVENT_BITS = 83
);
  localparam int STROBES = DATA_BITS / 8;

  // One step of the memory: the handshakes of this clock edge in, the next cycle's answers out.
  import "DPI-C" function void hwgate_step(
      input bit rst,
      input bit arvalid, input int unsigned araddr, input int unsigned arlen,
      input int unsigned arsize, input int unsigned arburst, input bit arid,
      input bit rready,
      input bit awvalid, input int unsigned awaddr, input int unsigned awlen,
      input int unsigned awsize, input int unsigned awburst, input bit awid,
      input bit wvalid, input bit [127:0] wdata, input int unsigned wstrb, input bit wlast,
      input bit bready,
      output bit wready,
      output bit rvalid, output bit [127:0] rdata, output byte unsigned rresp, output bit rlast,
      output bit rid,
      output bit bvalid, output byte unsigned bresp, output bit bid,
      output bit fault);
  import "DPI-C" function void hwgate_event(
      input int unsigned lane, input int unsigned channel, input int unsigned tile,
      input int unsigned pixel, input int psum, input bit decision, input bit score);
  import "DPI-C" function void hwgate_chip_write(input int unsigned address, input bit [127:0] data);
  import "DPI-C" function void hwgate_layer_done(input bit [32*COUNTERS-1:0] counters);

  // Clock and end of a run. `cycle` numbers the clock edges.
  bit clk /* verilator public_flat_rd */ = 0;
  always #1 clk = ~clk;

  bit rst /* verilator public_flat_rw */ = 1;
  bit reset = 1;
  always @(posedge clk) reset <= rst;

  bit [47:0] cycle /* verilator public_flat_rd */ = 0;
  bit [47:0] deadline /* verilator public_flat_rw */ = '1;
  bit late /* verilator public_flat_rd */ = 0;
  bit fault = 0;
  wire irq;
  wire halt /* verilator public_flat_rd */ = irq | late | fault;

  // Control port, driven by the bench, which always takes an answer.
  bit [11:0] awaddr /* verilator public_flat_rw */ = 0;
  bit [11:0] araddr /* verilator public_flat_rw */ = 0;
  bit [31:0] wdata /* verilator public_flat_rw */ = 0;
  bit awvalid /* verilator public_flat_rw */ = 0;
  bit wvalid /* verilator public_flat_rw */ = 0;
  bit arvalid /* verilator public_flat_rw */ = 0;
  wire awready /* verilator public_flat_rd */;
  wire wready /* verilator public_flat_rd */;
  wire arready /* verilator public_flat_rd */;
  wire bvalid /* verilator public_flat_rd */;
  wire rvalid /* verilator public_flat_rd */;
  wire [1:0] bresp /* verilator public_flat_rd */;
  wire [1:0] rresp /* verilator public_flat_rd */;
  wire [31:0] rdata /* verilator public_flat_rd */;

  // Memory port.
  wire [0:0] m_awid, m_arid;
  wire [ADDRESS_BITS-1:0] m_awaddr, m_araddr;
  wire [7:0] m_awlen, m_arlen;
  wire [2:0] m_awsize, m_arsize;
  wire [1:0] m_awburst, m_arburst;
  wire m_awvalid, m_arvalid, m_wvalid, m_wlast, m_bready, m_rready;
  wire [DATA_BITS-1:0] m_wdata;
  wire [STROBES-1:0] m_wstrb;
  bit m_wready = 1;
  bit m_rvalid = 0, m_rlast = 0, m_rid = 0, m_bvalid = 0, m_bid = 0;
  bit [127:0] m_rdata = 0;
  byte unsigned m_rresp = 0, m_bresp = 0;

  wire layer_done;
  wire [32*COUNTERS-1:0] counters;
  wire [EVENT_BITS*LANES-1:0] events;
  wire [DATA_BITS+32:0] chip;  // from bit 0: valid 1, address 32, data

  hwgate_top dut (
      .clk(clk), .rst(reset), .irq(irq),
      .m_axi__awid(m_awid), .m_axi__awaddr(m_awaddr), .m_axi__awlen(m_awlen),
      .m_axi__awsize(m_awsize), .m_axi__awburst(m_awburst), .m_axi__awvalid(m_awvalid),
      .m_axi__awready(1'b1),
      .m_axi__wdata(m_wdata), .m_axi__wstrb(m_wstrb), .m_axi__wlast(m_wlast),
      .m_axi__wvalid(m_wvalid), .m_axi__wready(m_wready),
      .m_axi__bid(m_bid), .m_axi__bresp(m_bresp[1:0]), .m_axi__bvalid(m_bvalid),
      .m_axi__bready(m_bready),
      .m_axi__arid(m_arid), .m_axi__araddr(m_araddr), .m_axi__arlen(m_arlen),
      .m_axi__arsize(m_arsize), .m_axi__arburst(m_arburst), .m_axi__arvalid(m_arvalid),
      .m_axi__arready(1'b1),
      .m_axi__rid(m_rid), .m_axi__rdata(m_rdata[DATA_BITS-1:0]), .m_axi__rresp(m_rresp[1:0]),
      .m_axi__rlast(m_rlast), .m_axi__rvalid(m_rvalid), .m_axi__rready(m_rready),
      .s_axil__awaddr(awaddr), .s_axil__awprot(3'b0), .s_axil__awvalid(awvalid),
      .s_axil__awready(awready),
      .s_axil__wdata(wdata), .s_axil__wstrb(4'hf), .s_axil__wvalid(wvalid),
      .s_axil__wready(wready),
      .s_axil__bresp(bresp), .s_axil__bvalid(bvalid), .s_axil__bready(1'b1),
      .s_axil__araddr(araddr), .s_axil__arprot(3'b0), .s_axil__arvalid(arvalid),
      .s_axil__arready(arready),
      .s_axil__rdata(rdata), .s_axil__rresp(rresp), .s_axil__rvalid(rvalid),
      .s_axil__rready(1'b1),
      .monitor__layer_done(layer_done), .monitor__counters(counters), .monitor__events(events),
      .monitor__chip(chip));

  // What the next clock edge assigns, filled in by the memory.
  bit n_wready, n_rvalid, n_rlast, n_rid, n_bvalid, n_bid, n_fault;
  bit [127:0] n_rdata;
  byte unsigned n_rresp, n_bresp;

  always @(posedge clk) begin
    cycle <= cycle + 1;
    late <= cycle >= deadline;
    hwgate_step(reset,
                m_arvalid, 32'(m_araddr), 32'(m_arlen), 32'(m_arsize), 32'(m_arburst), m_arid[0],
                m_rready,
                m_awvalid, 32'(m_awaddr), 32'(m_awlen), 32'(m_awsize), 32'(m_awburst), m_awid[0],
                m_wvalid & m_wready, 128'(m_wdata), 32'(m_wstrb), m_wlast, m_bready,
                n_wready, n_rvalid, n_rdata, n_rresp, n_rlast, n_rid, n_bvalid, n_bresp, n_bid,
                n_fault);
    m_wready <= n_wready;
    m_rvalid <= n_rvalid;
    m_rdata <= n_rdata;
    m_rresp <= n_rresp;
    m_rlast <= n_rlast;
    m_rid <= n_rid;
    m_bvalid <= n_bvalid;
    m_bresp <= n_bresp;
    m_bid <= n_bid;
    fault <= n_fault;
  end

  // Events of a lane, from bit 0: valid 1, channel 16, tile 16, pixel 16, psum 32, decision 1,
  // score 1.
  // The names are for waveforms (sim/layout.py).
  for (genvar lane = 0; lane < LANES; lane++) begin : g_lane
    wire [EVENT_BITS-1:0] record = events[EVENT_BITS*lane +: EVENT_BITS];
    wire valid = record[0];
    wire [15:0] channel = record[16:1];
    wire [15:0] tile = record[32:17];
    wire [15:0] pixel = record[48:33];
    wire signed [31:0] psum = record[80:49];
    wire decision = record[81];
    wire score = record[82];
    always @(posedge clk)
      if (valid && !reset)
        hwgate_event(lane, 32'(channel), 32'(tile), 32'(pixel), psum, decision, score);
  end

  always @(posedge clk) begin
    if (chip[0] && !reset) hwgate_chip_write(chip[32:1], 128'(chip[DATA_BITS+32:33]));
    if (layer_done && !reset) hwgate_layer_done(counters);
  end
endmodule
