import socket, select, struct, os, errno
s = socket.socket()
s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", 1, 500))
s.getsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, 16)
s.getsockopt(socket.SOL_SOCKET, socket.SO_LINGER, 8)
s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
s.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, b"reno")
s.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, 16)
s.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 24)
s.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
s.bind(("127.0.0.1", 0)); s.listen(5)
a = s.getsockname()
c = socket.socket(); c.connect(a)
d, _ = s.accept()
c.send(b"hello\x001\xff\n\"")
d.recv(1024)
d.sendmsg([b"ab", b"cde"])
c.recvmsg(100, 64)
c.recvmsg_into([bytearray(2), bytearray(20)], 0, socket.MSG_DONTWAIT) if 0 else None
try: c.recv(10, socket.MSG_DONTWAIT)
except BlockingIOError: pass
try: c.recvmsg(10, 0, socket.MSG_DONTWAIT)
except BlockingIOError: pass
try: c.recvfrom(10, socket.MSG_DONTWAIT|socket.MSG_PEEK)
except BlockingIOError: pass
p = select.poll(); p.register(c, select.POLLIN|select.POLLOUT|select.POLLPRI); p.register(d, select.POLLIN)
p.poll(10)
p2 = select.poll(); p2.register(d, select.POLLIN); p2.poll(10)
select.select([c, d], [c], [], 1)
select.select([d], [], [d], 0.01)
select.select([d], [], [], 0)
e = select.epoll(); e.register(c, select.EPOLLIN|select.EPOLLOUT|select.EPOLLET); e.register(d.fileno(), select.EPOLLIN); e.poll(1); e.modify(c.fileno(), select.EPOLLIN); e.poll(0.01); e.unregister(d.fileno())
os.write(c.fileno(), b"x" * 50); os.read(d.fileno(), 20)
os.writev(c.fileno(), [b"one", b"two"]); os.readv(d.fileno(), [bytearray(4), bytearray(26)])
c.getpeername(); c.shutdown(socket.SHUT_WR); d.recv(99)
try: s.getpeername()
except OSError: pass
f = os.dup(c.fileno()); os.close(f); os.dup2(c.fileno(), 40); os.close(40)
c.setblocking(False); c.close(); d.close(); s.close()
try: socket.socket().connect(("127.0.0.1", 1))
except OSError: pass
u = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); u.bind(("127.0.0.1", 0)); u.sendto(b"me", u.getsockname()); u.recvfrom(99)
u.sendto(b"", u.getsockname()); u.recvmsg(99)
u.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, socket.inet_aton("239.1.2.3") + socket.inet_aton("127.0.0.1"))
u.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, 1)
u.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton("127.0.0.1"))
u.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_LOOP, b"\x01")
u.sendmsg([b"q"], [], 0, u.getsockname()); u.recv(3)
u.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
u.close()
x, y = socket.socketpair(); x.sendmsg([b"fd"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack("i", 1))]); m = y.recvmsg(9, 64); os.close(struct.unpack("i", m[1][0][2])[0]); x.close(); y.close()
g = socket.socket(socket.AF_UNIX); 
try: g.connect("/tmp/no-such-socket")
except OSError: pass
try: g.connect("\0abstract")
except OSError: pass
g.bind("\0abstract7"); g.getsockname(); g.close()
try:
    v = socket.socket(socket.AF_INET6); v.bind(("::1", 0)); v.listen(); w = socket.socket(socket.AF_INET6); w.connect(v.getsockname()); v.accept(); w.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1) if 0 else None; v.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY)
    v.close(); w.close()
except OSError: pass
n = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0); n.bind((0, 0)); n.getsockname(); n.close()
try: socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
except OSError: pass
