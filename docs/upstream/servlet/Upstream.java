// An upstream of wxgate as a servlet, here in an embedded Tomcat 10.
import jakarta.servlet.http.HttpServlet;
import jakarta.servlet.http.HttpServletRequest;
import jakarta.servlet.http.HttpServletResponse;
import java.io.IOException;
import java.nio.file.Files;
import org.apache.catalina.Context;
import org.apache.catalina.startup.Tomcat;

public class Upstream extends HttpServlet {
  @Override
  protected void service(HttpServletRequest request, HttpServletResponse response) throws IOException {
    String openid = request.getHeader("X-OpenID");
    response.setContentType("application/json");
    if (openid == null || openid.isEmpty()) {
      response.setStatus(HttpServletResponse.SC_UNAUTHORIZED);
      response.getWriter().print("{\"error\":\"no_openid\"}");
      return;
    }
    response.getWriter().print("{\"openid\":" + quote(openid) + "}");
  }

  // An openid is printable ASCII, so only these two need escaping; use your JSON library for anything else.
  private static String quote(String text) {
    return '"' + text.replace("\\", "\\\\").replace("\"", "\\\"") + '"';
  }

  public static void main(String[] args) throws Exception {
    Tomcat tomcat = new Tomcat();
    tomcat.setBaseDir(Files.createTempDirectory("upstream").toString());
    tomcat.setPort(Integer.parseInt(System.getenv().getOrDefault("PORT", "3000")));
    tomcat.getConnector().setProperty("address", "127.0.0.1"); // Only the gateway on this machine reaches it.
    Context context = tomcat.addContext("", null);
    Tomcat.addServlet(context, "hello", new Upstream());
    context.addServletMappingDecoded("/", "hello");
    tomcat.start();
    tomcat.getServer().await();
  }
}
