package main

import (
	"errors"
	"os/exec"

	"ferry/test/lab"
)

const iodineAddr = "10.79.0.1" // of the gateway, inside

// startIodine starts both ends of iodine (Debian's package of that name), which asks the gateway itself, and with DNS only, and
// waits until a ping has passed.
func (b *bench) startIodine() (*contender, error) {
	c, start, err := b.serveIodine()
	if err != nil {
		return nil, err
	}
	client, err := start()
	if err == nil {
		_, err = client.Await("Connection setup complete", 0, 2*patience)
	}
	if err != nil {
		c.stop()
		return nil, err
	}
	if err := runs(b.net.c1, "ping -q -n -c 1 -w 10 "+iodineAddr); err != nil {
		c.stop()
		return nil, err
	}
	return c, nil
}

// serveIodine starts the gateway; start starts the client.
func (b *bench) serveIodine() (c *contender, start func() (*lab.Proc, error), err error) {
	for _, name := range []string{"iodined", "iodine"} {
		if _, err := exec.LookPath(name); err != nil {
			return nil, nil, errors.New("iodine is not installed: 'apt-get install iodine'")
		}
	}
	server, err := b.net.gw.Start("iodined", "-f", "-c", "-P", "bench", iodineAddr+"/24", dnsZone)
	if err != nil {
		return nil, nil, err
	}
	procs := []*lab.Proc{server}
	c = &contender{addr: iodineAddr, port: 53, stop: func() { stop(procs...) }, told: func() string { return printed(procs) }}
	if _, err := server.Await("Listening to dns", 0, patience); err != nil {
		c.stop()
		return nil, nil, err
	}
	return c, func() (*lab.Proc, error) {
		client, err := b.net.c1.Start("iodine", "-f", "-r", "-P", "bench", bareGateway, dnsZone)
		if err == nil {
			procs = append(procs, client)
		}
		return client, err
	}, nil
}
